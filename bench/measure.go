package main

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"time"
)

var flows = []struct {
	name string
	flow flow
	n    [3]int // messages in all, by QoS
}{
	{"4 to 1, 200 B", flow{publishers: 4, subscribers: 1, size: 200}, [3]int{400_000, 100_000, 60_000}},
	{"1 to 4, 200 B", flow{publishers: 1, subscribers: 4, size: 200}, [3]int{100_000, 40_000, 20_000}},
	{"4 to 1, 4 KiB", flow{publishers: 4, subscribers: 1, size: 4096}, [3]int{100_000, 40_000, 30_000}},
	{"1 to 4, 4 KiB", flow{publishers: 1, subscribers: 4, size: 4096}, [3]int{30_000, 20_000, 10_000}},
}

func flowName(qos byte, flow string) string { return fmt.Sprintf("QoS %d, %s", qos, flow) }

func flowNames() (names []string) {
	for _, f := range flows {
		for qos := range byte(3) {
			names = append(names, flowName(qos, f.name))
		}
	}
	return names
}

// live measures one broker with sessions that are connected.
func (r *report) live(k kind, ours, dir string, scale float64, wanted func(string) bool) error {
	s, err := k.run(ours, dir, false)
	if err != nil {
		return err
	}
	defer s.stop()
	for _, f := range flows {
		for qos := range byte(3) {
			name := flowName(qos, f.name)
			if k.bare && qos > 0 || !wanted(name) {
				continue
			}
			f := f
			f.flow.qos = qos
			f.flow.each = int(float64(f.n[qos])*scale) / f.flow.publishers
			before := s.cpu()
			rate, lost, wrong, err := throughput(s, f.flow)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			x := r.add(name, k.name, "msg/s", rate)
			all := f.flow.publishers * f.flow.subscribers * f.flow.each
			x.Lost, x.Wrong, x.Of = x.Lost+lost, x.Wrong+wrong, x.Of+all
			if delivered := all - lost; delivered > 0 {
				r.add(name+", CPU", k.name, "s per million", (s.cpu()-before)/float64(delivered)*1e6)
			}
		}
	}
	return nil
}

// turns is in how many pieces round trips are measured: the brokers take turns, so that what else the machine does meets all alike.
const turns = 20

// trips measures round trips through all brokers, which run beside each other and are asked one after the other.
func (r *report) trips(ours, dir string, scale float64, wanted func(string) bool) error {
	for _, qos := range []byte{0, 2} {
		measure := fmt.Sprintf("request and response, QoS %d", qos)
		if !wanted(measure) {
			continue
		}
		if err := r.tripsAt(qos, measure, ours, dir, scale); err != nil {
			return fmt.Errorf("%s: %w", measure, err)
		}
	}
	return nil
}

func (r *report) tripsAt(qos byte, measure, ours, dir string, scale float64) error {
	type way struct {
		name, network string
		pair          *pair
	}
	var servers []*server
	var ways []*way
	defer func() {
		for _, w := range ways {
			w.pair.close()
		}
		for _, s := range servers {
			s.stop()
		}
	}()
	for _, k := range kinds {
		if k.bare && qos > 0 {
			continue
		}
		s, err := k.run(ours, dir, false)
		if err != nil {
			return err
		}
		servers = append(servers, s)
		add := func(name, network, address string) error {
			p, err := newPair(s, network, address, qos)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			ways = append(ways, &way{name, network, p})
			return nil
		}
		if err := add(k.name, "tcp", s.address); err != nil {
			return err
		}
		if k.unix {
			if err := add(k.name+", Unix socket", "unix", s.dir+"/lawnberry.sock"); err != nil {
				return err
			}
		}
	}
	each := time.Duration(float64(2*time.Second) * scale / turns)
	for turn := range turns + 1 {
		for _, w := range ways {
			if err := w.pair.run(w.network, each); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			if turn == 0 { // warming up
				w.pair.times = nil
			}
		}
	}
	for _, w := range ways {
		r.add(measure+", p50", w.name, "µs", quantile(w.pair.times, 0.5))
		r.add(measure+", p99", w.name, "µs", quantile(w.pair.times, 0.99))
	}
	return nil
}

// stored measures 64 publishers at QoS 1 to one session that is away, on disk before the acknowledgement, and counts what
// the session gets when it comes back.
func (r *report) stored(k kind, ours, dir string, scale float64) error {
	s, err := k.run(ours, dir, true)
	if err != nil {
		return err
	}
	defer s.stop()
	sub, err := dial("tcp", s.address, "away", false)
	if err != nil {
		return err
	}
	if err := sub.subscribe("b/#", 1); err != nil {
		return err
	}
	_, _ = sub.nc.Write([]byte{0xe0, 0})
	sub.nc.Close()
	const publishers = 64
	each := int(40_000 * scale / publishers)
	var pubs []*client
	defer func() { closeAll(pubs) }()
	for i := range publishers {
		c, err := dial("tcp", s.address, fmt.Sprintf("p%d", i), true)
		if err != nil {
			return err
		}
		pubs = append(pubs, c)
	}
	errs := make([]error, publishers)
	var wg sync.WaitGroup
	began := time.Now()
	for i, c := range pubs {
		wg.Go(func() { errs[i] = c.publish(each, "b/"+string(rune('0'+i)), 1, 200) })
	}
	wg.Wait()
	took := time.Since(began)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	x := r.add("stored, QoS 1, 64 publishers", k.name, "msg/s", float64(publishers*each)/took.Seconds())
	if sub, err = dial("tcp", s.address, "away", false); err != nil {
		return err
	}
	defer sub.nc.Close()
	t, err := sub.receive(publishers * each)
	if err != nil {
		return err
	}
	x.Lost, x.Wrong, x.Of = x.Lost+publishers*each-t.got, x.Wrong+t.wrong, x.Of+publishers*each
	return nil
}

// memory measures what idle connections and retained messages take.
func (r *report) memory(ours, dir string) error {
	var us kind
	for _, k := range kinds {
		if k.name == "lawnberry" {
			us = k
		}
	}
	s, err := us.run(ours, dir, false)
	if err != nil {
		return err
	}
	time.Sleep(5 * time.Second) // all of it has started
	r.add("memory, idle", us.name, "MB", s.rss())
	const connections = 5_000
	var idle []*client
	defer func() { closeAll(idle) }()
	for i := range connections {
		c, err := dial("tcp", s.address, fmt.Sprintf("idle%d", i), true)
		if err != nil {
			s.stop()
			return err
		}
		c.in = nil
		idle = append(idle, c)
	}
	r.add("memory, 5,000 idle connections", us.name, "MB", s.rss())
	s.stop()

	if s, err = us.run(ours, dir, false); err != nil {
		return err
	}
	defer s.stop()
	c, err := dial("tcp", s.address, "retain", true)
	if err != nil {
		return err
	}
	defer c.nc.Close()
	for i := range 100_000 {
		h := header(fmt.Sprintf("retained/%d", i), 0, 200)
		h[0] |= 1
		c.out = append(append(c.out, h...), make([]byte, 200)...)
		if len(c.out) > 32<<10 {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	c.out = append(c.out, 0xc0, 0)
	if err := c.flush(); err != nil {
		return err
	}
	if first, _, err := c.next(); err != nil || first != 0xd0 {
		return fmt.Errorf("PINGRESP %x: %w", first, err)
	}
	time.Sleep(10 * time.Second) // for them to be stored, and for what that took to go back to the system
	r.add("memory, 100,000 retained of 200 B", us.name, "MB", s.rss())
	r.add("memory, 100,000 retained of 200 B, the highest while they came", us.name, "MB", s.status("VmHWM"))
	return nil
}

func closeAll(clients []*client) {
	for _, c := range clients {
		c.nc.Close()
	}
}

var matchLine = regexp.MustCompile(`BenchmarkMatch\S*\s+\d+\s+([\d.]+) ns/op`)

// match takes the time to find the subscribers of a topic among 100,000 from the broker's own benchmark.
func (r *report) match() error {
	c := exec.Command("go", "test", "-run", "^$", "-bench", "Match", "./broker")
	c.Dir = ".."
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	m := matchLine.FindSubmatch(out)
	if m == nil {
		return fmt.Errorf("no figure in %s", out)
	}
	ns, err := strconv.ParseFloat(string(m[1]), 64)
	r.add("match among 100,000 subscriptions", "lawnberry", "µs", ns/1000)
	return err
}
