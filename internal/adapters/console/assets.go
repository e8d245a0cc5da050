package console

import (
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"path"

	"github.com/labstack/echo/v4"
)

//go:embed assets
var files embed.FS

// assets are the style sheet, scripts and the icon. Their version is a hash of them all: what changes has another
// address, so that a browser may keep them for good.
type assets struct {
	version string
	byName  map[string]asset
}

type asset struct {
	kind, tag string
	body      []byte
}

// kinds are the types of assets, whatever the system thinks of their names.
var kinds = map[string]string{
	".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
}

func loadAssets() *assets {
	out := &assets{byName: map[string]asset{}}
	entries, err := files.ReadDir("assets")
	if err != nil {
		panic(err) // they are in the binary
	}
	all := sha256.New()
	for _, e := range entries {
		body, err := files.ReadFile("assets/" + e.Name())
		if err != nil {
			panic(err)
		}
		kind := kinds[path.Ext(e.Name())]
		sum := sha256.Sum256(body)
		all.Write(sum[:])
		out.byName[e.Name()] = asset{kind, `"` + hex.EncodeToString(sum[:8]) + `"`, body}
	}
	out.version = hex.EncodeToString(all.Sum(nil)[:6])
	return out
}

// assetLink is where an asset is.
func (v *view) assetLink(name string) string {
	return v.link("/assets/" + v.assets.version + "/" + name)
}

// asset answers GET /assets/{version}/{name}.
func (r *routes) asset(c echo.Context) error {
	return r.serve(c, c.Param("name"), c.Param("version") == r.assets.version)
}

// icon answers the browsers that ask for it by themselves.
func (r *routes) icon(c echo.Context) error { return r.serve(c, "icon.svg", false) }

func (r *routes) serve(c echo.Context, name string, lasting bool) error {
	a, there := r.assets.byName[name]
	if !there {
		return echo.ErrNotFound
	}
	h := c.Response().Header()
	h.Set("ETag", a.tag)
	h.Set(echo.HeaderCacheControl, "no-cache")
	if lasting {
		h.Set(echo.HeaderCacheControl, "public, max-age=31536000, immutable")
	}
	h.Set(echo.HeaderContentSecurityPolicy, "default-src 'none'")
	if c.Request().Header.Get("If-None-Match") == a.tag {
		return c.NoContent(http.StatusNotModified)
	}
	return c.Blob(http.StatusOK, a.kind, a.body)
}

// newNonce lets the scripts of one page run.
func newNonce() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails
	return base64.RawStdEncoding.EncodeToString(b)
}
