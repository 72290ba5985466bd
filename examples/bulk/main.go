// Bulk shows how large data goes over the bus: a map of a million cells, a megabyte, that changes four times a second. It is compressed on its
// way, and whoever is slower than it gets the latest map instead of a queue of old ones.
//
//	go run ./cmd/lawnberry serve       # in a terminal of its own
//	go run ./examples/bulk publish     # in another
//	go run ./examples/bulk read        # in a third; with -slow 1s it leaves maps out
//
// There are two limits. A message may have 10,000 bytes before it is compressed, in each program that sends or reads it: here both raise that
// for themselves, and others, the dashboard too, call these messages too large unless protocols.validation.max_payload_size says the same.
// The broker takes packets of 256 KiB, after compression: what does not compress that well, such as photographs, needs a larger
// broker.max_packet_size, or goes in parts.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"math"
	"os"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
	"github.com/lawnberry/lawnberry/topic"
)

const (
	side     = 1000 // cells
	mapTopic = "maps/lawn"
	longest  = 2 << 20 // bytes of a map as JSON, before compression
)

// A lawn is the map. A row is a string, one character for each cell: '.' is grass, 'm' mown, 'o' an obstacle.
type lawn struct {
	Number int      `json:"number"`
	Cell   float64  `json:"cell_m"`
	Rows   []string `json:"rows"`
}

func main() {
	url := flag.String("broker", cmp.Or(os.Getenv("LAWNBERRY_BROKER_URL"), "tcp://localhost:1883"), "`URL` of the broker")
	count := flag.Int("count", 0, "end after so many maps; 0 is never")
	slow := flag.Duration("slow", 0, "read: how long to work on each map")
	every := flag.Duration("every", 250*time.Millisecond, "publish: a map so often")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "Usage: bulk [flags] publish|read")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := service.SignalContext(context.Background())
	defer stop()
	var err error
	switch what := flag.Arg(0); {
	case flag.NArg() != 1 || what != "publish" && what != "read" || *count < 0 || *every <= 0:
		flag.Usage()
		os.Exit(2)
	case what == "publish":
		err = publish(ctx, *url, *count, *every)
	default:
		err = read(ctx, *url, *count, *slow)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

// options are what publisher and reader need for long messages.
func options(url string) (client.Options, error) {
	topics, err := topic.New("")
	if err != nil {
		return client.Options{}, err
	}
	// A state is retained, so who comes later has a map at once, and of those that wait for a connection the latest stays.
	err = topics.Register(topic.Definition{
		Pattern: mapTopic, Type: "map", Description: "the map of the lawn", QoS: 1, Retain: true, Class: topic.State, Message: "sensor_data",
	})
	return client.Options{URL: url, Topics: topics, Limits: message.Limits{MaxPayload: longest}, Outbox: client.Queue{Max: 4, Full: client.Latest}}, err
}

func publish(ctx context.Context, url string, count int, every time.Duration) error {
	o, err := options(url)
	if err != nil {
		return err
	}
	svc, err := service.Start(ctx, service.Options{ID: "mapper", Version: "1.0.0", Client: o})
	if err != nil {
		return err
	}
	defer svc.Stop(context.WithoutCancel(ctx))
	fmt.Println("mapper is", svc.State())
	for n := 1; count == 0 || n <= count; n++ {
		began := time.Now()
		m, err := message.NewSensorData("mapper", message.SensorData{SensorType: "map", Data: survey(n)})
		if err != nil {
			return err
		}
		if err := svc.Publish(ctx, mapTopic, m); err != nil {
			return err
		}
		fmt.Printf("map %d is safe after %v\n", n, time.Since(began).Round(time.Millisecond))
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// survey makes the map as it is at a time: what is mown grows stripe by stripe, around flower beds.
func survey(n int) lawn {
	l := lawn{Number: n, Cell: 0.05, Rows: make([]string, side)}
	row := make([]byte, side)
	for y := range side {
		edge := 20*n + int(10*math.Sin(float64(y)/40)) // the mower's line is not quite straight
		for x := range side {
			dx, dy := x%250-125, y%200-100
			switch {
			case dx*dx+dy*dy < 900:
				row[x] = 'o'
			case x < edge%side:
				row[x] = 'm'
			default:
				row[x] = '.'
			}
		}
		l.Rows[y] = string(row)
	}
	return l
}

func read(ctx context.Context, url string, count int, slow time.Duration) error {
	o, err := options(url)
	if err != nil {
		return err
	}
	c, err := client.Connect(ctx, o)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	enough := make(chan struct{})
	seen, last := 0, 0 // of the handler alone
	// One map may wait while we work on another; a newer one takes its place. At QoS 0 the broker does not wait for us either.
	_, err = c.Subscribe(ctx, mapTopic, func(ctx context.Context, d *client.Delivery) {
		l, err := message.SensorOf[lawn](d.Message)
		if err != nil {
			log.Printf("map ignored: %v", err)
			return
		}
		if count != 0 && seen >= count {
			return
		}
		seen++
		mown, full := 0, 0
		for _, row := range l.Rows {
			for _, cell := range row {
				if full++; cell == 'm' {
					mown++
				}
			}
		}
		left := 0
		if last != 0 {
			left = max(0, l.Number-last-1)
		}
		last = l.Number
		long := len(d.Message.Payload)
		fmt.Printf("map %d: %d cells, %.0f %% mown; %d bytes came as %d, %.1f to 1, %v after it was made; %d left out before it\n", l.Number, full,
			100*float64(mown)/float64(max(full, 1)), long, d.Size, float64(long)/float64(max(d.Size, 1)),
			d.Received.Sub(d.Message.Metadata.Time()).Round(time.Millisecond), left)
		if seen == count {
			close(enough)
			return
		}
		select {
		case <-time.After(slow):
		case <-ctx.Done():
		}
	}, client.WithMaxQoS(0), client.WithQueue(client.Queue{Max: 1, Full: client.Latest}))
	if err != nil {
		return err
	}
	fmt.Println("reader is ready")
	select {
	case <-enough:
	case <-ctx.Done():
	}
	return nil
}
