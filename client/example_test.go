package client_test

import (
	"context"
	"fmt"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, err := broker.Start(ctx, broker.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Stop(ctx)

	mower, err := client.Connect(ctx, client.Options{Dial: b.Dial, ID: "mower"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mower.Close(ctx)

	heard := make(chan struct{})
	_, err = mower.Subscribe(ctx, "sensors/+/data", func(_ context.Context, d *client.Delivery) {
		height, err := message.SensorOf[struct{ Height float64 }](d.Message)
		fmt.Println(d.Topic, d.Message.Metadata.Sender, height.Height, err)
		close(heard)
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := message.NewSensorData("mower", message.SensorData{SensorType: "blade", Data: map[string]float64{"height": 32.5}})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := mower.Publish(ctx, "sensors/blade/data", m); err != nil {
		fmt.Println(err)
		return
	}
	<-heard

	_, err = mower.ServeCommands(ctx, "mower", nil, func(_ context.Context, r *client.Request) (any, error) {
		return "now " + r.Command + "ing", nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	var answer string
	fmt.Println(mower.Call(ctx, "mower", "mow", nil, &answer), answer)
	// Output:
	// sensors/blade/data mower 32.5 <nil>
	// <nil> now mowing
}
