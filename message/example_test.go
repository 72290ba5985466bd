package message_test

import (
	"errors"
	"fmt"
	"log"

	"github.com/lawnberry/lawnberry/message"
)

type climate struct {
	Temperature float64 `json:"temperature"`
	Humidity    float64 `json:"humidity"`
}

func ExampleNewSensorData() {
	m, err := message.NewSensorData("hardware_interface", message.SensorData{
		SensorType: "climate",
		Data:       climate{Temperature: 21.5, Humidity: 40},
		Units:      map[string]string{"temperature": "°C", "humidity": "%"},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(m.Metadata.Type, m.Metadata.Priority)
	fmt.Println(string(m.Payload))
	// Output:
	// sensor_data normal
	// {"sensor_type":"climate","device_id":null,"data":{"temperature":21.5,"humidity":40},"units":{"humidity":"%","temperature":"°C"},"quality":1,"status":"healthy"}
}

func ExampleDecode() {
	body := []byte(`{"metadata": {"timestamp": 1763884800.125, "message_id": "1", "sender": "shed", "message_type": "sensor_data", "priority": 1},
		"payload": {"sensor_type": "climate", "data": {"temperature": 21.5, "humidity": 40}}}`)
	m, err := message.Decode(body, message.Limits{})
	if err != nil {
		log.Fatal(err)
	}
	c, err := message.SensorOf[climate](m)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(m.Metadata.Sender, c.Temperature)
	// Output: shed 21.5
}

func ExampleError() {
	body := []byte(`{"metadata": {"timestamp": 1763884800.125, "message_id": "1", "sender": "shed", "message_type": "status", "priority": 7},
		"payload": {}}`)
	_, err := message.Decode(body, message.Limits{})
	var e *message.Error
	if errors.As(err, &e) {
		fmt.Println(e.Reason)
	}
	fmt.Println(err)
	// Output:
	// out_of_range
	// metadata.priority must be 0 to 3, not 7
}

func ExamplePayload() {
	m, err := message.NewCommand("dashboard", message.Command{Target: "navigation", Command: "dock"})
	if err != nil {
		log.Fatal(err)
	}
	c, err := message.Payload[message.Command](m)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.Command, c.Timeout, c.WantsAck())
	// Output: dock 30 true
}

func ExampleEncode() {
	m := message.NewRaw([]byte("hello"))
	body, compressed, err := message.Encode(&m, message.Limits{})
	fmt.Println(string(body), compressed, err)
	// Output: hello false <nil>
}
