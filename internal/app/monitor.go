package app

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/cloudlog"
	"github.com/lawnberry/lawnberry/internal/faultnet"
	"github.com/lawnberry/lawnberry/internal/mock"
)

// cloudDir is the directory in the data directory for log lines that wait for their server.
const cloudDir = "cloud_logging"

// sendLogs has what is logged from now on sent to the server of integration.cloud_logging too, if the configuration wants it. The data
// directory is taken.
func (a *App) sendLogs(o Options) error {
	c := o.Config.Integration.CloudLogging
	if !c.Enabled {
		return nil
	}
	sink, err := cloudlog.Start(cloudlog.Options{
		Endpoint: c.Endpoint, Token: string(c.Token), Dir: filepath.Join(a.dataDir, cloudDir), Lines: c.BatchSize, Flush: c.FlushInterval, Logger: a.log,
	})
	if err != nil {
		return fmt.Errorf("integration.cloud_logging: %w", err)
	}
	a.cloud = sink
	a.logTo(slog.New(sink.Handler(a.root.Handler(), nil)))
	return nil
}

// A tap is what looks at the messages of the bus on behalf of the log.
type tap struct {
	a        *App
	messages bool         // log each message
	payloads bool         // and what is in it
	cloud    *slog.Logger // gets the log lines of services; nil without
}

// startTap begins to look at messages, if the configuration wants anything of them. Nobody waits for it: a broker is of use without.
func (a *App) startTap(ctx context.Context, c *config.Config) {
	t := &tap{a: a, messages: c.Monitoring.Logging.LogMessages || c.Development.Debug.LogAllMessages, payloads: c.Development.Debug.LogAllMessages}
	if a.cloud != nil {
		t.cloud = slog.New(a.cloud.Handler(slog.DiscardHandler, slog.LevelDebug))
	}
	if t.messages || t.cloud != nil {
		a.beside.Go(func() { t.run(ctx, c) })
	}
	if c.Monitoring.Logging.LogPerformance && a.broker == nil {
		a.log.Warn("the broker's figures are not logged: they are those of broker.engine embedded")
	} else if c.Monitoring.Logging.LogPerformance {
		a.beside.Go(func() { a.logPerformance(ctx, c.Monitoring.Metrics.CollectionInterval) })
	}
}

func (t *tap) run(ctx context.Context, c *config.Config) {
	o, err := t.a.within(c, "lawnberry")
	o.Tracer = nil // looking at a message is no part of what becomes of it
	if err == nil {
		err = t.listen(ctx, o)
	}
	if err != nil && ctx.Err() == nil {
		t.a.log.Error("messages are not logged", "error", err)
	}
}

func (t *tap) listen(ctx context.Context, o client.Options) error {
	c, err := client.Connect(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = c.Close(bye)
	}()
	filters := []string{"system/logs/+"}
	if t.messages {
		filters = []string{"#"}
	}
	for _, filter := range filters {
		// Looking must never slow down what it looks at, nor be a reason to cut this client off: QoS 0, and the oldest go.
		if _, err := c.Subscribe(ctx, filter, func(_ context.Context, d *client.Delivery) { t.take(d) },
			client.WithMaxQoS(0), client.WithInvalid(), client.WithQueue(client.Queue{Max: 10_000, Full: client.DropOldest})); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

const (
	maxLoggedPayload = 1000 // bytes
	logTopics        = "system/logs/"
)

// take logs a message. Of its payload nothing is logged unless everything is: there may be tokens in it.
func (t *tap) take(d *client.Delivery) {
	m := &d.Message
	if t.messages {
		attrs := []any{"topic", d.Topic, "bytes", len(m.Payload), "retained", d.Retained}
		if !m.Raw {
			attrs = append(attrs, "sender", m.Metadata.Sender, "type", m.Metadata.Type, "message_id", m.Metadata.ID)
		}
		if d.Invalid != nil {
			attrs = append(attrs, "invalid", d.Invalid.Error())
		}
		if t.payloads {
			attrs = append(attrs, "payload", string(m.Payload[:min(len(m.Payload), maxLoggedPayload)]))
		}
		t.a.log.Info("message", attrs...)
	}
	if level, ok := logLevelOf(d.Topic); ok && t.cloud != nil && !d.Retained {
		t.cloud.Log(context.Background(), level, "service log", "topic", d.Topic, "sender", m.Metadata.Sender, "payload", string(m.Payload[:min(len(m.Payload), 4*maxLoggedPayload)]))
	}
}

// logLevelOf returns the level of what services log on a topic.
func logLevelOf(topic string) (slog.Level, bool) {
	if len(topic) <= len(logTopics) || topic[:len(logTopics)] != logTopics {
		return 0, false
	}
	switch topic[len(logTopics):] {
	case "debug":
		return slog.LevelDebug, true
	case "warning", "warn":
		return slog.LevelWarn, true
	case "error", "critical":
		return slog.LevelError, true
	}
	return slog.LevelInfo, true
}

// logPerformance logs what the broker has done, every so often.
func (a *App) logPerformance(ctx context.Context, every time.Duration) {
	if every <= 0 {
		every = time.Minute
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	last, at := a.broker.Stats(), time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := a.broker.Stats()
		passed := time.Since(at).Seconds()
		rate := func(a, b uint64) float64 { return float64(int(10*float64(b-a)/passed)) / 10 }
		a.log.Info("performance", "received_per_s", rate(last.Received, now.Received), "sent_per_s", rate(last.Sent, now.Sent),
			"bytes_received_per_s", rate(last.BytesReceived, now.BytesReceived), "bytes_sent_per_s", rate(last.BytesSent, now.BytesSent),
			"connections", now.Connections, "queued", now.Queued, "dropped", now.Dropped-last.Dropped, "expired", now.Expired-last.Expired,
			"denied", now.Denied-last.Denied)
		last, at = now, time.Now()
	}
}

// simulatedCut is how long connections last on average with development.debug.simulate_failures.
const simulatedCut = 30 * time.Second

// simulateNetwork has listeners on the network be as bad as development.debug wants it.
func (a *App) simulateNetwork(c *config.Config, listeners []broker.Listener) {
	debug := c.Development.Debug
	bad := faultnet.Bad{Delay: debug.LatencySimulation}
	if debug.SimulateFailures {
		bad.Cut = simulatedCut
	}
	if bad == (faultnet.Bad{}) {
		return
	}
	a.log.Warn("a bad network is simulated (development.debug): not for a mower that moves", "delay", bad.Delay, "cut_after", bad.Cut)
	for i := range listeners {
		listeners[i].Through = bad.Listener
	}
}

// startMocks starts the services of development.mock_services. Nobody waits for them: they may depend on others.
func (a *App) startMocks(ctx context.Context, c *config.Config) {
	mocks := c.Development.MockServices
	if !mocks.Enabled || len(mocks.Services) == 0 {
		return
	}
	a.log.Warn("services are simulated: what they say is made up", "services", mocks.Services)
	for _, id := range mocks.Services {
		a.beside.Go(func() {
			if err := a.runMock(ctx, c, id); err != nil && ctx.Err() == nil {
				a.log.Error("a simulated service has ended", "service", id, "error", err)
			}
		})
	}
}

func (a *App) runMock(ctx context.Context, c *config.Config, id string) error {
	so, err := c.ServiceOptions(id)
	if err != nil {
		return err
	}
	if so.Client, err = a.within(c, id); err != nil {
		return err
	}
	m, err := mock.Start(ctx, mock.Options{Service: so, Publish: c.ServiceDefinitions[id].Topics.Publish, Logger: a.part("service")})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-m.Done(): // somebody has sent the command shutdown
	}
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	return m.Stop(bye)
}
