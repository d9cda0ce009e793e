package page

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Handler serves the page below /TOKEN/, with slices on demand, to who names the given host
// and port of this machine: a request by another name comes from a page elsewhere whose name
// was made to point here, and is refused.
func (g *Gathered) Handler(token, host string) (http.Handler, error) {
	g.Document.Pictures = Pictures{Served: true, Note: "Slices come at full resolution and depth from the program that serves this page."}
	var page bytes.Buffer
	if err := head(&page, g.Document.Title, " 'self'"); err != nil {
		return nil, err
	}
	if err := g.foot(&page); err != nil {
		return nil, err
	}
	page.WriteString("</body>\n</html>\n")
	_, port, err := net.SplitHostPort(host)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if r.Host != host && r.Host != net.JoinHostPort("localhost", port) {
			http.Error(w, "this server answers on the loopback address alone", http.StatusForbidden)
			return
		}
		given, rest, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		if !ok || subtle.ConstantTimeCompare([]byte(given), []byte(token)) != 1 {
			http.Error(w, "the address has no token, or another's: take the one that `alignedfusion view` printed", http.StatusForbidden)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "this page is read only", http.StatusMethodNotAllowed)
			return
		}
		if rest == "" {
			h.Set("Content-Type", "text/html; charset=utf-8")
			h.Set("Content-Security-Policy", policy(" 'self'")+"; frame-ancestors 'none'")
			_, _ = w.Write(page.Bytes())
			return
		}
		g.slice(w, r, rest)
	}), nil
}

// slice answers slice/CASE/MODALITY/OFFSET.
func (g *Gathered) slice(w http.ResponseWriter, r *http.Request, path string) {
	parts := strings.Split(path, "/")
	if len(parts) != 4 || parts[0] != "slice" {
		http.NotFound(w, r)
		return
	}
	at, err1 := strconv.Atoi(parts[1])
	offset, err2 := strconv.Atoi(parts[3])
	if err1 != nil || err2 != nil || at < 0 || at >= len(g.shown) || g.shown[at] == nil || !slices.Contains(g.Document.Cases[at].Modalities, parts[2]) {
		http.NotFound(w, r)
		return
	}
	p, err := g.picture(wanted{at, offset, parts[2]})
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	data, err := full(p)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "image/png")
	w.Header().Set("Cache-Control", "private, max-age=3600")
	_, _ = w.Write(data)
}

// Serve serves the page on the loopback address, at a free port where port is 0, until ctx
// ends. ready is called with the address once it answers.
func (g *Gathered) Serve(ctx context.Context, port int, ready func(url string)) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	token := rand.Text()
	handler, err := g.Handler(token, l.Addr().String())
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	ready(fmt.Sprintf("http://%s/%s/", l.Addr(), token))
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return ctx.Err()
}
