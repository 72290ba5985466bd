// Command bench measures brokers against each other and against a bare relay of the same bytes, all with one load client, in
// one run. It is a module of its own, so that the peers are no dependency of Lawnberry's.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) > 1 {
		if serve, ok := servers[os.Args[1]]; ok {
			fail(serve(os.Args[2:]))
			return
		}
	}
	var o options
	flag.BoolVar(&o.quick, "quick", false, "one short round instead of five")
	flag.StringVar(&o.only, "only", "", "measures whose name contains this")
	flag.StringVar(&o.out, "out", "", "write the report to this file, as Markdown")
	asJSON := flag.Bool("json", false, "print the results as JSON")
	flag.Parse()
	limit := syscall.Rlimit{Cur: 20_000, Max: 20_000}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		fmt.Fprintln(os.Stderr, "bench: open files cannot be raised to 20,000:", err)
	}
	r, err := run(o)
	fail(err)
	if *asJSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		fail(e.Encode(r))
	} else {
		fmt.Print(r.markdown())
	}
	if o.out != "" {
		fail(os.WriteFile(o.out, []byte(r.markdown()), 0o644))
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	quick bool
	only  string
	out   string
}

// A result is one figure of one broker: every round's value.
type result struct {
	Measure string    `json:"measure"`
	Broker  string    `json:"broker"`
	Unit    string    `json:"unit"`
	Values  []float64 `json:"values"`
	Lost    int       `json:"lost,omitempty"` // of all rounds
	Of      int       `json:"of,omitempty"`
	Wrong   int       `json:"out_of_order,omitempty"`
}

func (r *result) median() float64 {
	if r == nil || len(r.Values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(r.Values))
	return v[len(v)/2]
}

type report struct {
	Machine  string             `json:"machine"`
	Versions map[string]string  `json:"versions"`
	Rounds   int                `json:"rounds"`
	Results  []*result          `json:"results"`
	Notes    []string           `json:"notes,omitempty"`
	index    map[string]*result // by measure and broker
}

func (r *report) add(measure, broker, unit string, value float64) *result {
	key := measure + "\x00" + broker
	x := r.index[key]
	if x == nil {
		x = &result{Measure: measure, Broker: broker, Unit: unit}
		r.index[key] = x
		r.Results = append(r.Results, x)
	}
	x.Values = append(x.Values, value)
	return x
}

func (r *report) get(measure, broker string) *result { return r.index[measure+"\x00"+broker] }

// run measures everything.
func run(o options) (*report, error) {
	r := &report{Rounds: 5, index: make(map[string]*result), Versions: versions(), Machine: machine()}
	scale := 1.0
	if o.quick {
		r.Rounds, scale = 1, 0.2
	}
	dir, err := os.MkdirTemp("", "lawnberry-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ours := filepath.Join(dir, "lawnberry")
	if err := build(ours); err != nil {
		return nil, err
	}
	wanted := func(name string) bool { return strings.Contains(name, o.only) }
	for round := range r.Rounds {
		for _, k := range kinds {
			if !wanted("stored") && !slices.ContainsFunc(flowNames(), wanted) {
				break
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, r.Rounds, k.name)
			if err := r.live(k, ours, dir, scale, wanted); err != nil {
				if k.name == "lawnberry" {
					return nil, err
				}
				r.Notes = append(r.Notes, fmt.Sprintf("round %d: %s: %v; its later measures of that round are missing", round+1, k.name, err))
				fmt.Fprintln(os.Stderr, "bench:", r.Notes[len(r.Notes)-1])
			}
			if k.stores && wanted("stored") {
				if err := r.stored(k, ours, dir, scale); err != nil {
					if k.name == "lawnberry" {
						return nil, err
					}
					r.Notes = append(r.Notes, fmt.Sprintf("round %d: %s: stored: %v", round+1, k.name, err))
				}
			}
		}
	}
	for round := range r.Rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d: round trips\n", round+1, r.Rounds)
		if err := r.trips(ours, dir, scale, wanted); err != nil {
			return nil, err
		}
	}
	for round := range r.Rounds {
		if !wanted(callMeasure) {
			break
		}
		fmt.Fprintf(os.Stderr, "round %d of %d: commands\n", round+1, r.Rounds)
		if err := r.calls(ours, dir, scale); err != nil {
			return nil, fmt.Errorf("%s: %w", callMeasure, err)
		}
	}
	if wanted("memory") {
		if err := r.memory(ours, dir); err != nil {
			return nil, err
		}
	}
	if wanted(demoCPU) || wanted(demoRSS) || wanted(demoRate) {
		fmt.Fprintln(os.Stderr, "the demo's load")
		if err := r.demo(ours, dir, scale); err != nil {
			return nil, err
		}
	}
	if wanted("match") {
		if err := r.match(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func machine() string {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%d cores shared by load and broker, %s/%s, Linux %s, %s, loopback", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH,
		strings.TrimSpace(string(kernel)), runtime.Version())
}
