package page

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"

	"github.com/alignedfusion/alignedfusion/host/fault"
)

//go:embed assets/page.css
var style string

//go:embed assets/page.js
var script string

//go:embed assets/body.html
var body string

// policy lets the page run its own script and nothing else, and ask for nothing but what
// images adds.
func policy(images string) string {
	sum := sha256.Sum256([]byte(script))
	return fmt.Sprintf("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-%s'; img-src data: blob:%s; base-uri 'none'; form-action 'none'",
		base64.StdEncoding.EncodeToString(sum[:]), images)
}

// head writes the page down to where the document and the pictures go.
func head(w io.Writer, title, images string) error {
	_, err := fmt.Fprintf(w, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta http-equiv=\"Content-Security-Policy\" content=\"%s\">\n"+
		"<meta name=\"viewport\" content=\"width=device-width\">\n<link rel=\"icon\" href=\"data:,\">\n<title>%s</title>\n<style>\n%s</style>\n</head>\n<body>\n%s",
		policy(images), html.EscapeString(title), style, body)
	return err
}

// foot writes the document and the script.
func (g *Gathered) foot(w io.Writer) error {
	data, err := json.Marshal(g.Document) // escapes <, > and &
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "<script type=\"application/json\" id=\"document\">%s</script>\n<script>%s</script>\n", data, script)
	return err
}

// HTML is the whole page as one file of at most maxMiB. Pictures beyond that are left
// out, the least telling ones first, and the page says so.
func (g *Gathered) HTML(ctx context.Context, maxMiB float64) ([]byte, error) {
	g.Document.Pictures = Pictures{LevelHU: levelHU()}
	var fixed bytes.Buffer
	if err := g.foot(&fixed); err != nil {
		return nil, err
	}
	var pictures bytes.Buffer
	const perTile = 120 // bytes of markup, at most
	tiles := len(g.Document.Cases) * (1 + 2*neighboursAtMost)
	budget := int64(maxMiB*(1<<20)) - int64(fixed.Len()+len(style)+len(body)) - 4096
	if budget < 0 {
		return nil, fault.Errorf(fault.Usage, "the page without any picture has %.1f MiB, more than the %g asked for: raise --max-mib, or report on fewer images", float64(fixed.Len())/(1<<20), maxMiB)
	}
	budget -= min(budget/4, int64(tiles*perTile))
	encoded := base64.StdEncoding
	err := g.tiles(ctx, budget, func(name string, data []byte) error {
		_, err := fmt.Fprintf(&pictures, "<script type=\"text/plain\" id=\"%s\">%s</script>\n", html.EscapeString(name), encoded.EncodeToString(data))
		return err
	})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.Grow(pictures.Len() + fixed.Len() + len(style) + len(body) + 4096)
	if err := head(&out, g.Document.Title, ""); err != nil {
		return nil, err
	}
	if err := g.foot(&out); err != nil {
		return nil, err
	}
	pictures.WriteTo(&out)
	out.WriteString("</body>\n</html>\n")
	return out.Bytes(), nil
}
