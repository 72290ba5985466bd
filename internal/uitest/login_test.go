package uitest

import (
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/app"
	"github.com/lawnberry/lawnberry/internal/identity"
)

// With users, the page asks who one is: a wrong password is said, the right one lets in, and after the logout one is out.
func TestLogin(t *testing.T) {
	dir := t.TempDir()
	check(t, identity.Edit(dir, func(b *identity.Book) error { return b.Add("anna", "admin", identity.Hash("right")) }))
	c := config.Default()
	c.Broker.Port, c.Integration.WebSocketBridge.Enabled, c.Integration.WebSocketBridge.Port = 0, true, 0
	a, err := app.Start(t.Context(), app.Options{Config: c, DataDir: dir, Version: "1.2.3", AnyPort: true})
	check(t, err)
	stopAtEnd(t, a.Stop)
	b := open(t, a.Bridge().URLs()[0])
	b.expectFailures() // the refusals are some

	enter := func(password string) {
		b.fill("input[name=name]", "anna")
		b.fill("input[name=password]", password)
		b.click(".login button")
	}
	b.until("the form", "document.querySelector('.login form')")
	if value[bool](b, "!!document.querySelector('main:not(.login)')") {
		t.Error("a page is shown without a login")
	}
	enter("wrong")
	b.says(".login [role=alert]", "wrong user name or password")
	enter("right")
	b.until("the overview", // too many log in at once on a slow machine, and the page says so: then again
		"document.querySelector('#page-overview h1') || (document.querySelector('.login [role=alert]')?.innerText && document.querySelector('.login button')?.click(), false)")
	b.until("connected", "document.querySelector('#link').classList.contains('good')")
	b.show("settings")
	b.says("#page-settings dt", "broker.port")
	if s := value[string](b, "document.body.innerText + location.href"); strings.Contains(s, "right\n") {
		t.Error("the password is shown")
	}
	b.click("#logout")
	b.until("the form", "document.querySelector('.login form')")
	if status := value[int](b, "(() => { const r = new XMLHttpRequest(); r.open('GET', '/api/services', false); r.send(); return r.status })()"); status != 401 {
		t.Errorf("after the logout: status %d", status)
	}

	// Who is removed while the page is open is asked again.
	enter("right")
	b.until("the overview", "document.querySelector('#page-settings h1')")
	check(t, identity.Edit(dir, func(b *identity.Book) error { return b.Remove("anna") }))
	check(t, identity.Edit(dir, func(b *identity.Book) error { return b.Add("otto", "admin", identity.Hash("other")) }))
	b.until("the form", "document.querySelector('.login form')")
}
