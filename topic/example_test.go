package topic_test

import (
	"fmt"
	"log"

	"github.com/lawnberry/lawnberry/topic"
)

func ExampleNew() {
	r, err := topic.New("farm/mower1")
	if err != nil {
		log.Fatal(err)
	}
	full, err := r.Resolve("sensors/gps/data")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(full)
	// Output: farm/mower1/sensors/gps/data
}

func ExampleRegistry_Lookup() {
	r, err := topic.New("")
	if err != nil {
		log.Fatal(err)
	}
	d, ok := r.Lookup("lawnberry/sensors/gps/data")
	fmt.Println(ok, d.Pattern, d.Type, "QoS", d.QoS, d.Rate, "a minute")
	// Output: true sensors/+/data sensor_data QoS 1 100 a minute
}

func ExampleRegistry_Register() {
	r, err := topic.New("")
	if err != nil {
		log.Fatal(err)
	}
	err = r.Register(topic.Definition{
		Pattern: "garden/+/moisture", Type: "sensor_data", Description: "Soil moisture of a bed", QoS: 1, Retain: true,
		Rate: 6, Class: topic.State,
	})
	if err != nil {
		log.Fatal(err)
	}
	d, _ := r.Lookup("garden/roses/moisture")
	fmt.Println(d.Description, "-", d.Class)
	// Output: Soil moisture of a bed - state
}

func ExampleMatch() {
	fmt.Println(topic.Match("lawnberry/sensors/+/data", "lawnberry/sensors/gps/data"))
	fmt.Println(topic.Match("lawnberry/sensors/#", "lawnberry/sensors"))
	fmt.Println(topic.Match("#", "$SYS/broker/uptime"))
	// Output:
	// true
	// true
	// false
}

func ExampleCheckFilter() {
	fmt.Println(topic.CheckFilter("sensors/#/data"))
	// Output: topic filter "sensors/#/data": has a # that is not its last level [MQTT-4.7.1-1]
}
