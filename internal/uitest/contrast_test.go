package uitest

import (
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/lawnberry/lawnberry/message"
)

// contrasts returns what is too hard to read: text under 4.5:1 against what is behind it, and the edges of what can be operated and the lines
// of drawings under 3:1, by the formula of WCAG 2.2.
const contrasts = `(() => {
	const parse = (c) => {
		const m = /^rgba?\(([\d.]+), ([\d.]+), ([\d.]+)(?:, ([\d.]+))?\)$/.exec(c);
		return m ? [+m[1], +m[2], +m[3], m[4] === undefined ? 1 : +m[4]] : undefined;
	};
	const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
	const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
		.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
	const behind = (e) => {
		const layers = [];
		for (let x = e; x; x = x.parentElement) {
			const c = parse(getComputedStyle(x).backgroundColor);
			if (!c) throw new Error("no colour: " + getComputedStyle(x).backgroundColor);
			layers.push(c);
			if (c[3] === 1) break;
		}
		return layers.reverse().reduce((below, c) => over(c, below), [255, 255, 255, 1]);
	};
	const found = [];
	let texts = 0, edges = 0;
	const say = (what, e, r, least) => { if (r < least) found.push(what + " " + r.toFixed(2) + ": " + e.tagName + "." + (e.getAttribute("class") ?? "") + " " + e.textContent.slice(0, 40)); };
	for (const e of document.querySelectorAll("body *")) {
		if (!e.checkVisibility() || e.closest("script, .u-hz .u-cursor-x, option, title")) continue;
		const s = getComputedStyle(e);
		if ([...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) {
			texts++;
			const svg = e instanceof SVGElement;
			const below = svg && e.closest(".node") ? parse(getComputedStyle(e.closest(".node").querySelector("rect")).fill) : behind(svg ? e.ownerSVGElement.parentElement : e);
			say("text", e, ratio(over(parse(svg ? s.fill : s.color), below), below), 4.5);
		}
		if (e.matches("button:not(.plain), input:not([type=range], [type=checkbox]), select, textarea")) {
			edges++;
			const below = behind(e.parentElement), own = over(parse(s.backgroundColor), below), line = over(parse(s.borderTopColor), below);
			say("edge", e, Math.max(ratio(own, below), ratio(line, below)), 3);
		}
		if (e.matches(".rim, .joystick:not(.off) .knob, .node rect, .edge, .battery .case, .scale path, .path, .trail, .lawn, .dock rect")) {
			edges++;
			const below = behind(e.ownerSVGElement.parentElement);
			const color = parse(e.matches(".dock rect") ? s.fill : s.stroke);
			say("drawing", e, ratio(color, below), 3);
			const grass = parse(getComputedStyle(document.querySelector(".lawn") ?? e).fill);
			if (e.matches(".path, .trail, .lawn, .dock rect")) say("on grass", e, ratio(color, grass), 3);
		}
	}
	return {found, texts, edges};
})()`

// In both themes, chosen by the system or by the button, everything on every page is seen well enough.
func TestContrast(t *testing.T) {
	a := startDemo(t)
	b := open(t, a.Bridge().URLs()[0])
	look := func(what string) {
		t.Helper()
		r := value[struct {
			Found        []string
			Texts, Edges int
		}](b, "%s", contrasts)
		if r.Texts < 10 || r.Edges < 3 {
			t.Errorf("%s: only %d texts and %d edges were looked at", what, r.Texts, r.Edges)
		}
		for _, f := range r.Found {
			t.Errorf("%s: %s", what, f)
		}
	}
	all := func(theme string) {
		for _, page := range pages {
			b.show(page)
			switch page {
			case "overview", "drive":
				b.until("the map", "document.querySelector('#mower') && document.querySelector('#dock')")
			case "services":
				b.click("[data-choose=hardware_interface]")
				b.until("forms", "document.querySelector('.command')")
			case "topics":
				b.click(".tree button")
				b.until("the detail", "document.querySelector('pre')")
			case "settings":
				b.until("settings", "document.querySelector('.settings dt')")
			}
			look(theme + ", " + page)
		}
	}
	b.until("the mower", "document.querySelector('#mower')")
	all("light")
	light := value[string](b, "getComputedStyle(document.body).backgroundColor")
	b.scheme("dark")
	b.until("dark", "getComputedStyle(document.body).backgroundColor !== %q", light)
	all("dark")

	// When something is wrong, too: an alert, an emergency stop with its question, and a refusal.
	m, err := message.NewAlert("test", message.Alert{AlertType: "test", Severity: "critical", Message: "It burns"})
	check(t, err)
	publish(t, a.URL(), "safety/alerts/test", m)
	b.show("alerts")
	b.says("header .alert", "It burns")
	b.simulate("true")
	b.click("#stop")
	b.askRelease()
	look("dark, engaged")
	b.click("#theme")
	b.until("light", "getComputedStyle(document.body).backgroundColor === %q", light)
	look("light, engaged")
	b.show("alerts")
	b.until("the alert", "document.querySelector('[data-alert=test]')")
	look("light, alert")

	// What was chosen stays.
	b.do(chromedp.Reload())
	b.until("light again", "document.querySelector('#page-alerts') && getComputedStyle(document.body).backgroundColor === %q", light)
}
