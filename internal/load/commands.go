package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/lawnberry/lawnberry/client"
)

// openCalls bounds the calls of one caller that wait for their answers in the open loop; what is due beyond waits, and its time runs.
const openCalls = 256

// An echo is the parameters and the result of the echo's command.
type echo struct {
	Phase  phase  `json:"phase"`
	Caller int    `json:"caller"`
	Number uint64 `json:"n"`
	Data   string `json:"data"`
}

// A commander is a run of commands.
type commander struct {
	*run
	clients []*client.Client
	target  string
	data    string

	mu         sync.Mutex // guards what follows
	times      *times
	late       *hdrhistogram.Histogram
	answers    uint64
	sent       uint64
	sentBytes  uint64
	bytes      uint64
	lost       uint64
	errors     map[string]int
	cuts       [tenths]cut
	last       time.Duration
	executions []sequence // by caller, of the echo
}

// commands runs a plan of commands.
func (r *run) commands(asked, working context.Context) (*Result, error) {
	k := &commander{run: r, target: r.plan.Service, times: newTimes(), late: hdrhistogram.New(1000, int64(longestTime), 2),
		errors: map[string]int{}, executions: make([]sequence, r.plan.Publishers), data: string(filling(r.plan.Size))}
	defer k.close()
	if err := k.open(working); err != nil {
		return nil, r.reason(asked, working, err)
	}
	if err := k.first(working); err != nil {
		return nil, r.reason(asked, working, err)
	}
	k.meter.listen(working, r.plan.Client)
	stopProgress := k.watch(working, k.counts, func() {})
	defer stopProgress()
	if r.plan.WarmUp > 0 {
		r.warmedUp.Store(int64(r.now()))
		k.everyone(working, warming, r.now(), r.plan.WarmUp)
	}
	begun := working.Err() == nil
	if begun {
		r.meter.begin()
		start := r.now()
		r.start.Store(int64(start))
		k.everyone(working, measuring, start, r.plan.Duration)
	}
	stopProgress()
	if err := r.broken(asked, working); err != nil {
		var broken *BrokenError
		if errors.As(err, &broken) {
			broken.Sent, broken.Received = k.counts()
		}
		return nil, err
	}
	if !begun {
		return nil, context.Cause(asked)
	}
	return k.outcome(asked.Err() != nil), nil
}

// open connects the callers and, without a service to call, the echo.
func (k *commander) open(ctx context.Context) error {
	p := &k.plan
	if k.target == "" {
		k.target = p.Client.ID + "-echo"
		c, err := k.connect(ctx, "echo")
		if err != nil {
			return err
		}
		k.clients = append(k.clients, c)
		limited, cancel := context.WithTimeout(ctx, p.Patience)
		_, err = c.ServeCommands(limited, k.target, nil, k.answer)
		cancel()
		if err != nil {
			return err
		}
	}
	for i := range p.Publishers {
		c, err := k.connect(ctx, fmt.Sprintf("c%d", i))
		if err != nil {
			return err
		}
		k.clients = append(k.clients, c)
	}
	return nil
}

func (k *commander) callers() []*client.Client { return k.clients[len(k.clients)-k.plan.Publishers:] }

// answer is the echo.
func (k *commander) answer(_ context.Context, q *client.Request) (any, error) {
	var e echo
	if err := json.Unmarshal(q.Parameters, &e); err != nil || e.Caller < 0 || e.Caller >= len(k.executions) {
		return nil, errors.New("the echo of a measurement answers to nobody else")
	}
	if e.Phase == measuring {
		k.mu.Lock()
		k.executions[e.Caller].take(e.Number)
		k.mu.Unlock()
	}
	return q.Parameters, nil
}

// call makes one call, and returns the bytes of parameters and result.
func (k *commander) call(ctx context.Context, caller int, f phase, n uint64) (out, in int, err error) {
	p := &k.plan
	name, parameters := p.Name, json.RawMessage(p.Parameters)
	if p.Service == "" {
		name = "echo"
		parameters, err = json.Marshal(echo{f, caller, n, k.data})
		if err != nil {
			return 0, 0, err
		}
	}
	var opts []client.CallOption
	if p.QoS == 1 {
		opts = append(opts, client.AtLeastOnce())
	}
	if p.Unannounced {
		opts = append(opts, client.Unannounced())
	}
	limited, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	var result json.RawMessage
	if err := k.callers()[caller].Call(limited, k.target, name, parameters, &result, opts...); err != nil {
		return len(parameters), 0, err
	}
	if p.Service == "" {
		var e echo
		if json.Unmarshal(result, &e) != nil || e.Number != n || e.Caller != caller {
			err = &client.CommandError{Service: k.target, Command: name, Code: wrongAnswer, Message: "it is the answer to another call"}
			return len(parameters), len(result), err
		}
	}
	return len(parameters), len(result), nil
}

// wrongAnswer is the code of an answer that is not the call's.
const wrongAnswer = "wrong_answer"

// first makes one call, so that what is refused is known before.
func (k *commander) first(ctx context.Context) error {
	for i := range k.callers() {
		_, _, err := k.call(ctx, i, probing, 0)
		var failed *client.CommandError
		if k.plan.Service == "" && errors.As(err, &failed) && failed.Code == client.CodeTimeout { // the echo is not to blame
			return ErrNothingArrives
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// everyone has all callers call in a phase, and waits until they have.
func (k *commander) everyone(ctx context.Context, f phase, start, span time.Duration) {
	var calling sync.WaitGroup
	for i := range k.plan.Publishers {
		count := uint64(0)
		if f == measuring && k.plan.Count > 0 {
			count = k.plan.share(i)
		}
		calling.Go(func() { k.calls(ctx, i, f, start, span, count) })
	}
	calling.Wait()
}

// calls makes the calls of one caller: in the closed loop one after the other, in the open one when they are due.
func (k *commander) calls(ctx context.Context, caller int, f phase, start, span time.Duration, count uint64) {
	p := &k.plan
	var open sync.WaitGroup
	defer open.Wait()
	places := make(chan struct{}, openCalls)
	for n := uint64(0); count == 0 || n < count; n++ {
		due := k.now()
		if p.Rate > 0 {
			due = start + time.Duration((float64(n)*float64(p.Publishers)+float64(caller))/p.Rate*float64(time.Second))
		}
		if span > 0 && due-start >= span || !k.pause(ctx, due) {
			return
		}
		if p.Rate == 0 {
			k.one(ctx, caller, f, n, due)
			continue
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if f == measuring {
			k.mu.Lock()
			_ = k.late.RecordValue(int64(min(max(k.now()-due, 0), longestTime)))
			k.mu.Unlock()
		}
		open.Go(func() {
			defer func() { <-places }()
			k.one(ctx, caller, f, n, due)
		})
	}
}

// one makes one call and records what came of it.
func (k *commander) one(ctx context.Context, caller int, f phase, n uint64, due time.Duration) {
	out, in, err := k.call(ctx, caller, f, n)
	now := k.now()
	if f != measuring || ctx.Err() != nil { // what was cut off says nothing
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sent++
	k.sentBytes += uint64(out)
	k.last = now
	if err != nil {
		k.lost++
		code := "other"
		var failed *client.CommandError
		if errors.As(err, &failed) {
			code = failed.Code
		}
		k.errors[code]++
		return
	}
	k.answers++
	k.bytes += uint64(in)
	i := k.slice(stamp{publisher: uint16(caller), number: n, due: due})
	k.times.add(i, now-due)
	c := &k.cuts[i]
	if c.n++; c.n == 1 {
		c.first = now
	}
	c.last = now
}

func (k *commander) counts() (sent, answers uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sent, k.answers
}

// outcome sums up what the callers have counted.
func (k *commander) outcome(interrupted bool) *Result {
	k.mu.Lock()
	defer k.mu.Unlock()
	res := k.result(interrupted, k.times, k.late)
	res.Settings.Topic, res.Settings.Subscribers = "", 0
	if k.plan.Service == "" {
		res.Settings.Service, res.Settings.Command = "", "echo"
	}
	res.Broker.MQTT = protocol(k.callers()[0].Stats().Version)
	start := time.Duration(k.start.Load())
	res.Seconds = max((k.last - start).Seconds(), 0)
	res.Sent = volume(k.sent, k.sentBytes, res.Seconds)
	res.Received = volume(k.answers, k.bytes, res.Seconds)
	res.Lost, res.Errors = k.lost, k.errors
	for i := range k.executions {
		res.Duplicates += k.executions[i].duplicates
	}
	res.Spread.PerSecond = rates(k.cuts)
	return res
}

// close ends all connections.
func (k *commander) close() {
	k.ending.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	var each sync.WaitGroup
	for _, c := range k.clients {
		each.Go(func() { _ = c.Close(ctx) })
	}
	each.Wait()
	k.meter.close()
}
