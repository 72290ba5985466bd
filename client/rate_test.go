package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// A recorder is a broker that takes everything, and notes what came when.
type recorder struct {
	began time.Time
	mu    sync.Mutex
	got   []string // "topic text at seconds"
}

func (r *recorder) play(_ int, s *script) {
	s.accept(packet.Connack{})
	for p := s.next(); p != nil; p = s.next() {
		switch p := p.(type) {
		case *packet.Publish:
			r.mu.Lock()
			name := string(p.Topic)[len("lawnberry/"):]
			r.got = append(r.got, fmt.Sprintf("%s %s at %.0f", name, p.Payload, time.Since(r.began).Seconds()))
			r.mu.Unlock()
			switch p.QoS {
			case 1:
				s.send(&packet.Ack{Kind: packet.PUBACK, ID: p.ID})
			case 2:
				s.send(&packet.Ack{Kind: packet.PUBREC, ID: p.ID})
			}
		case *packet.Ack:
			s.send(&packet.Ack{Kind: packet.PUBCOMP, ID: p.ID})
		}
	}
}

func (r *recorder) all() []string {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// limited runs f with a client that has these rates, messages a minute, in a time of its own.
func limited(t *testing.T, rates map[string]int, o Options, f func(t *testing.T, c *Client, r *recorder)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		topics, err := topic.New("")
		if err != nil {
			t.Fatal(err)
		}
		for pattern, rate := range rates {
			d, ok := topics.Lookup(pattern)
			if !ok {
				t.Fatal(pattern)
			}
			d.Pattern, d.Rate = pattern, rate
			if err := topics.Register(d); err != nil {
				t.Fatal(err)
			}
		}
		r := &recorder{began: time.Now()}
		o.Topics, o.Dial = topics, scripted(t, r.play)
		c, err := Connect(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		f(t, c, r)
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// Readings over their rate are dropped, and their publisher hears of it. The allowance of a minute may go at once, and comes
// back steadily.
func TestRateOfReadings(t *testing.T) {
	t.Parallel()
	limited(t, map[string]int{"sensors/gps/data": 6}, Options{}, func(t *testing.T, c *Client, r *recorder) {
		ctx := context.Background()
		pass := func(name string) (n int) {
			for range 20 {
				switch err := c.Publish(ctx, name, raw("x")); {
				case err == nil:
					n++
				case !errors.Is(err, ErrRateLimited):
					t.Error(err)
				}
			}
			return n
		}
		for i, step := range []struct {
			after time.Duration
			want  int
		}{{0, 6}, {9 * time.Second, 0}, {time.Second, 1}, {25 * time.Second, 2}, {time.Hour, 6}} {
			time.Sleep(step.after)
			if n := pass("sensors/gps/data"); n != step.want {
				t.Errorf("step %d: %d pass, want %d", i, n, step.want)
			}
		}
		if n := pass("sensors/imu/data"); n != 20 { // the topic of another sensor has its own rate
			t.Errorf("%d of another topic pass", n)
		}
		if n := pass("safety/hazards"); n != 20 { // 50 a minute in the registry, but never limited
			t.Errorf("%d of safety pass", n)
		}
		if err := c.Publish(ctx, "sensors/gps/data", raw("x"), Unlimited()); err != nil {
			t.Error(err)
		}
		if s := c.Stats(); s.RateLimited != 20*5-15 || s.Sent != 15+20+20+1 {
			t.Errorf("%d limited, %d sent", s.RateLimited, s.Sent)
		}
	})
}

// Of states over their rate the latest value is sent when its turn comes.
func TestRateOfStates(t *testing.T) {
	t.Parallel()
	limited(t, map[string]int{"power/battery": 2}, Options{}, func(t *testing.T, c *Client, r *recorder) {
		ctx := context.Background()
		var receipts []*Receipt
		for i := range 6 {
			receipts = append(receipts, c.PublishAsync("power/battery", raw(fmt.Sprint(i))))
			if err := c.Publish(ctx, "power/solar", raw(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		}
		for i, r := range receipts {
			if err := r.Wait(ctx); (i >= 2 && i < 5) != errors.Is(err, ErrSuperseded) {
				t.Errorf("%d: %v", i, err)
			}
		}
		time.Sleep(45 * time.Second)
		if err := c.Publish(ctx, "power/battery", message.NewRaw(nil)); err != nil { // clears it; not lost either
			t.Error(err)
		}
		time.Sleep(2 * time.Minute)
		of := slices.DeleteFunc(r.all(), func(s string) bool { return s[:len("power/solar")] == "power/solar" })
		want := []string{"power/battery 0 at 0", "power/battery 1 at 0", "power/battery 5 at 30", "power/battery  at 60"}
		if !slices.Equal(of, want) {
			t.Errorf("%q, want %q", of, want)
		}
		// One that is exempt overtakes what waits, which must not come after it.
		c.PublishAsync("power/battery", raw("late"))
		c.PublishAsync("power/battery", raw("later"))
		c.PublishAsync("power/battery", raw("waits"))
		c.PublishAsync("power/battery", raw("at once"), Unlimited())
		time.Sleep(2 * time.Minute)
		if all := r.all(); all[len(all)-1] != "power/battery at once at 165" {
			t.Errorf("%q", all)
		}
		if s := c.Stats(); s.Conflated != 4+1+1 || s.Held != 0 || s.RateLimited != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// Commands over their rate wait for their turn, in their order, and hold nothing else up.
func TestRateOfCommands(t *testing.T) {
	t.Parallel()
	limited(t, map[string]int{"commands/nav": 2}, Options{}, func(t *testing.T, c *Client, r *recorder) {
		ctx := context.Background()
		for i := range 4 {
			c.PublishAsync("commands/nav", raw(fmt.Sprint(i)))
		}
		short, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := c.Publish(short, "commands/nav", raw("never")); !errors.Is(err, ErrRateLimited) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if err := c.Publish(ctx, "commands/power", raw("other")); err != nil {
			t.Error(err)
		}
		if err := c.Publish(ctx, "commands/nav", raw("last")); err != nil {
			t.Error(err)
		}
		want := []string{"commands/nav 0 at 0", "commands/nav 1 at 0", "commands/power other at 10", "commands/nav 2 at 30", "commands/nav 3 at 60", "commands/nav last at 90"}
		if got := r.all(); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if s := c.Stats(); s.Delayed != 4 || s.Held != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A call over its rate waits no longer than its deadline.
func TestRateOfCalls(t *testing.T) {
	t.Parallel()
	limited(t, map[string]int{"commands/nav": 1}, Options{}, func(t *testing.T, c *Client, r *recorder) {
		if err := c.Publish(context.Background(), "commands/nav", raw("first")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if e := asCommandError(t, c.Call(ctx, "nav", "go", nil, nil)); e.Code != CodeTimeout {
			t.Error(e)
		}
		if got := r.all(); len(got) != 1 || c.Stats().Held != 0 {
			t.Errorf("%q were sent, %d wait", got, c.Stats().Held)
		}
	})
}

// The rates of a client count all its topics together, by what messages are.
func TestRatesOfAClient(t *testing.T) {
	t.Parallel()
	o := Options{ID: "hw", Rates: Rates{SensorData: 3, General: 2}}
	limited(t, nil, o, func(t *testing.T, c *Client, r *recorder) {
		ctx := context.Background()
		limited := 0
		for i := range 10 {
			kind := []string{"gps", "imu"}[i%2]
			m, err := message.NewSensorData("hw", message.SensorData{SensorType: kind})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Publish(ctx, "sensors/"+kind+"/data", m); errors.Is(err, ErrRateLimited) {
				limited++
			}
		}
		if limited != 7 {
			t.Errorf("%d readings are over the rate, want 7", limited)
		}
		for i := range 4 {
			if err := c.Publish(ctx, fmt.Sprintf("other/%d", i), raw("x")); i >= 2 != errors.Is(err, ErrRateLimited) {
				t.Errorf("raw message %d: %v", i, err)
			}
			if err := c.Publish(ctx, "safety/alerts/x", raw("x")); err != nil {
				t.Errorf("safety: %v", err)
			}
		}
	})
}

// Close sends what waits for its turn.
func TestRateAndClose(t *testing.T) {
	t.Parallel()
	limited(t, map[string]int{"commands/nav": 1, "power/battery": 1}, Options{}, func(t *testing.T, c *Client, r *recorder) {
		for i := range 3 {
			c.PublishAsync("commands/nav", raw(fmt.Sprint(i)))
			c.PublishAsync("power/battery", raw(fmt.Sprint(i)))
		}
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
		got := r.all()
		slices.Sort(got)
		if want := []string{"commands/nav 0 at 0", "commands/nav 1 at 0", "commands/nav 2 at 0", "power/battery 0 at 0", "power/battery 2 at 0"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// The limiter forgets topics that were quiet for a minute.
func TestRateForgets(t *testing.T) {
	t.Parallel()
	limited(t, nil, Options{}, func(t *testing.T, c *Client, r *recorder) {
		for i := range 200 {
			if err := c.Publish(context.Background(), fmt.Sprintf("sensors/%d/data", i), raw("x")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if n := len(c.limiter.topics); n > 121 {
			t.Errorf("%d topics are remembered", n)
		}
	})
}
