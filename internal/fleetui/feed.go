package fleetui

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

const (
	feedGap   = 250 * time.Millisecond // between two looks at what has changed
	matchGap  = 2 * time.Second        // between two looks at what a condition is true of by now: time alone changes that
	chunk     = 500                    // mowers in a frame
	writeTime = 30 * time.Second       // for a frame; a browser that takes longer is gone
	maxAsk    = 16 << 10
)

// A row is a mower on the page: short, as thousands go at once.
type row struct {
	ID      string     `json:"id"`
	Online  bool       `json:"on"`
	Battery *float64   `json:"b,omitempty"`
	Charges bool       `json:"c,omitempty"`
	State   string     `json:"s,omitempty"`
	Stop    string     `json:"stop,omitempty"`
	Alerts  []rowAlert `json:"al,omitempty"` // the worst first, some
	Count   int        `json:"n,omitempty"`  // of alerts
	Worst   int        `json:"w,omitempty"`  // rank
	Backlog int64      `json:"bl,omitempty"`
	Lost    uint64     `json:"l,omitempty"`
	Heard   int64      `json:"h,omitempty"` // Unix milliseconds
	Version string     `json:"v,omitempty"`
	X       *float64   `json:"x,omitempty"`
	Y       *float64   `json:"y,omitempty"`
	Lat     *float64   `json:"la,omitempty"`
	Lon     *float64   `json:"lo,omitempty"`
	Match   bool       `json:"m,omitempty"` // the condition is true of it
}

type rowAlert struct {
	Type     string `json:"t"`
	Severity string `json:"s"`
	Text     string `json:"m"`
	Time     int64  `json:"at"`
}

const (
	rowAlerts  = 3
	rowMessage = 160 // bytes
)

func newRow(m *fleet.Mower, match bool) row {
	r := row{
		ID: m.ID, Online: m.Online, Battery: m.Battery, Charges: m.Charging, State: m.State, Stop: m.Stop, Count: len(m.Alerts), Worst: m.WorstRank(),
		Backlog: m.Backlog, Lost: min(m.Lost, 1<<53), Version: m.Version, X: m.X, Y: m.Y, Lat: m.Latitude, Lon: m.Longitude, Match: match,
	}
	if !m.Heard.IsZero() {
		r.Heard = m.Heard.UnixMilli()
	}
	for _, a := range m.Alerts[:min(len(m.Alerts), rowAlerts)] {
		text := []rune(a.Message)
		r.Alerts = append(r.Alerts, rowAlert{a.Type, a.Severity, string(text[:min(len(text), rowMessage)]), a.Time.UnixMilli()})
	}
	return r
}

// A frame is what the page is told.
type frame struct {
	Op     string      `json:"op"` // all (the first, and what follows it until the last), some, link, where, match
	Rows   []row       `json:"rows,omitempty"`
	Gone   []string    `json:"gone,omitempty"`
	First  bool        `json:"first,omitempty"` // of all
	Last   bool        `json:"last,omitempty"`
	Link   *fleet.Link `json:"link,omitempty"`
	Text   string      `json:"text,omitempty"` // of where
	Error  string      `json:"error,omitempty"`
	At     int         `json:"at,omitempty"`  // character of Text that the error is about
	On     []string    `json:"yes,omitempty"` // of match: whom the condition is true of by now
	Off    []string    `json:"no,omitempty"`
	Number uint64      `json:"number,omitempty"` // of where: that of the question
}

// An ask is what the page says.
type ask struct {
	Op     string `json:"op"` // where
	Text   string `json:"text"`
	Number uint64 `json:"number"`
}

// A browser is a page that is open. What it is told is made when it can take it, of what is there then: it never has more than that to take.
type browser struct {
	u       *UI
	ws      *websocket.Conn
	feed    *fleet.Feed
	where   *fleet.Where
	matched map[string]bool
	link    fleet.Link
}

func (u *UI) feed(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	many := u.browsers >= u.o.MaxBrowsers
	if !many {
		u.browsers++
	}
	u.mu.Unlock()
	if many {
		fail(w, http.StatusServiceUnavailable, "too many pages are open")
		return
	}
	defer func() {
		u.mu.Lock()
		u.browsers--
		u.mu.Unlock()
	}()
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled}) // the origin was looked at
	if err != nil {
		return
	}
	ws.SetReadLimit(maxAsk)
	ctx, end := context.WithCancel(u.ctx)
	defer end()
	b := &browser{u: u, ws: ws, matched: map[string]bool{}}
	asks := make(chan ask)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		defer end()
		for {
			_, body, err := ws.Read(ctx)
			if err != nil {
				return
			}
			var a ask
			if json.Unmarshal(body, &a) != nil {
				continue
			}
			select {
			case asks <- a:
			case <-ctx.Done():
				return
			}
		}
	}()
	err = b.run(ctx, asks)
	end()
	if err != nil && u.ctx.Err() == nil {
		u.log.Debug("fleet page", "error", err)
	}
	_ = ws.Close(websocket.StatusGoingAway, "the page is not served any more")
	_ = ws.CloseNow()
	<-heard
}

func (b *browser) run(ctx context.Context, asks <-chan ask) error {
	v := b.u.o.View
	var all []*fleet.Mower
	b.feed, all = v.Follow()
	defer b.feed.Close()
	if err := b.tellAll(ctx, all); err != nil {
		return err
	}
	tick := time.NewTicker(feedGap)
	defer tick.Stop()
	again := time.Now().Add(matchGap)
	for {
		select {
		case a := <-asks:
			if a.Op == "where" {
				if err := b.ask(ctx, a); err != nil {
					return err
				}
			}
			continue
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := b.tellLink(ctx); err != nil {
			return err
		}
		if err := b.tellChanges(ctx); err != nil {
			return err
		}
		if now := time.Now(); !b.where.All() && now.After(again) {
			again = now.Add(matchGap)
			if f := b.rematch(now); f != nil {
				if err := b.send(ctx, f); err != nil {
					return err
				}
			}
		}
	}
}

func (b *browser) send(ctx context.Context, f *frame) error {
	body, err := json.Marshal(f)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	return b.ws.Write(ctx, websocket.MessageText, body)
}

func (b *browser) row(m *fleet.Mower, now time.Time) row {
	match := b.where.Match(m, now)
	b.matched[m.ID] = match
	return newRow(m, match)
}

func (b *browser) tellAll(ctx context.Context, all []*fleet.Mower) error {
	link := b.u.o.View.Link()
	b.link = link
	now := time.Now()
	for first := true; first || len(all) > 0; first = false {
		n := min(len(all), chunk)
		f := &frame{Op: "all", First: first, Last: n == len(all), Link: &link, Rows: make([]row, 0, n)}
		for _, m := range all[:n] {
			f.Rows = append(f.Rows, b.row(m, now))
		}
		all = all[n:]
		if err := b.send(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (b *browser) tellLink(ctx context.Context) error {
	l := b.u.o.View.Link()
	if l.Current == b.link.Current && l.Connected == b.link.Connected && l.Problem == b.link.Problem && l.Server == b.link.Server {
		return nil
	}
	b.link = l
	return b.send(ctx, &frame{Op: "link", Link: &l})
}

func (b *browser) tellChanges(ctx context.Context) error {
	changes := b.feed.Take()
	now := time.Now()
	for len(changes) > 0 {
		n := min(len(changes), chunk)
		f := &frame{Op: "some"}
		for _, c := range changes[:n] {
			if c.After == nil {
				delete(b.matched, c.ID)
				f.Gone = append(f.Gone, c.ID)
				continue
			}
			f.Rows = append(f.Rows, b.row(c.After, now))
		}
		changes = changes[n:]
		if err := b.send(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// ask takes another condition. While it is none, the one before stays.
func (b *browser) ask(ctx context.Context, a ask) error {
	w, err := fleet.ParseWhere(a.Text)
	f := &frame{Op: "where", Text: a.Text, Number: a.Number}
	if err != nil {
		f.Error, f.At = err.Error(), explainAt(err)
		return b.send(ctx, f)
	}
	b.where = w
	if m := b.rematch(time.Now()); m != nil {
		f.On, f.Off = m.On, m.Off
	}
	return b.send(ctx, f)
}

// rematch returns of whom the condition is true by now, and was not, and the other way round.
func (b *browser) rematch(now time.Time) *frame {
	f := &frame{Op: "match"}
	for _, m := range b.u.o.View.Mowers() {
		was, known := b.matched[m.ID]
		if is := b.where.Match(m, now); known && is != was { // of others the page is told anyway
			b.matched[m.ID] = is
			if is {
				f.On = append(f.On, m.ID)
			} else {
				f.Off = append(f.Off, m.ID)
			}
		}
	}
	if f.On == nil && f.Off == nil {
		return nil
	}
	return f
}

// explainAt is the character that an error of a condition is about.
func explainAt(err error) int {
	var e *fleet.WhereError
	if !errors.As(err, &e) {
		return 0
	}
	return min(len([]rune(e.Text[:e.At])), math.MaxInt32)
}
