package page

import (
	"bytes"
	"image/png"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

func TestTheServerAnswersItsOwnAddressWithItsTokenAlone(t *testing.T) {
	const host, token = "127.0.0.1:4711", "SECRET"
	handler, err := newExample(t).gather(t).Handler(token, host)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, host, path string
		want               int
	}{
		{"GET", host, "/SECRET/", http.StatusOK},
		{"GET", "localhost:4711", "/SECRET/", http.StatusOK},
		{"GET", host, "/SECRET/slice/0/volume/0", http.StatusOK},
		{"GET", "evil.example:4711", "/SECRET/", http.StatusForbidden},
		{"GET", "127.0.0.1", "/SECRET/", http.StatusForbidden},
		{"GET", host, "/", http.StatusForbidden},
		{"GET", host, "/SECRE/", http.StatusForbidden},
		{"GET", host, "/SECRET", http.StatusForbidden},
		{"POST", host, "/SECRET/", http.StatusMethodNotAllowed},
		{"GET", host, "/SECRET/slice/99999/volume/0", http.StatusNotFound},
		{"GET", host, "/SECRET/slice/0/volume/99999", http.StatusNotFound},
		{"GET", host, "/SECRET/slice/0/..%2f..%2fetc%2fpasswd/0", http.StatusNotFound},
	} {
		r := httptest.NewRequest(c.method, c.path, nil)
		r.Host = c.host
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s %s of %s: %d, want %d", c.method, c.path, c.host, w.Code, c.want)
		}
		if !strings.Contains(c.path, "/volume/0") || w.Code != http.StatusOK {
			continue
		}
		if img, err := png.Decode(bytes.NewReader(w.Body.Bytes())); err != nil || img.Bounds().Dx() != 96 {
			t.Errorf("slice: %v", err)
		}
	}
}

func TestServedSlicesHaveTheirHounsfieldUnits(t *testing.T) {
	e := newExample(t)
	e.options.Compare.Systems = nil // data alone
	g := e.gather(t)
	var handler http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	defer server.Close()
	var err error
	if handler, err = g.Handler("SECRET", strings.TrimPrefix(server.URL, "http://")); err != nil {
		t.Fatal(err)
	}
	p, err := g.picture(wanted{0, 0, "volume"})
	if err != nil {
		t.Fatal(err)
	}
	var ready bool
	var got []float64
	browser(t, server.URL+"/SECRET/", chromedp.Poll(`reportPage.state().picture && reportPage.state().current === 0`, &ready),
		evaluate(`Array.from(reportPage.pixels().slice(0, 4000))`, &got))
	if len(got) != 4000 {
		t.Fatalf("%d pixels", len(got))
	}
	for i, v := range got {
		if v != float64(p.HU[i]) {
			t.Fatalf("pixel %d is %v HU, want %v", i, v, p.HU[i])
		}
	}
}
