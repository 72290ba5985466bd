package demo

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// Fusion is sensor_fusion: it makes one estimate of the pose out of gyroscope, odometers and satellites, and publishes it
// on sensors/fusion/data as often as the odometers are read.
type fusion struct {
	mu     sync.Mutex // guards everything below
	filter *filter
	yaw    float64 // rad, the gyroscope's last
	hasYaw bool
	fixAt  time.Time // when the last satellite fix came
	pose   positionData
	out    latest[positionData]
}

// positionData is a place as the bus tells it: the data of sensors/fusion/data and navigation/position, and the result of
// get_position.
type positionData struct {
	X         float64 `json:"x" doc:"m, east of the lawn's south-west corner"`
	Y         float64 `json:"y" doc:"m, north of it"`
	Latitude  float64 `json:"latitude"`
	Longitude float64 `json:"longitude"`
	Heading   float64 `json:"heading" doc:"degrees, clockwise from north"`
	Speed     float64 `json:"speed" doc:"m/s, negative in reverse"`
	Accuracy  float64 `json:"accuracy" doc:"m, one standard deviation"`
}

func positionUnits() map[string]string {
	return map[string]string{"x": "m", "y": "m", "latitude": "deg", "longitude": "deg", "heading": "deg", "speed": "m/s", "accuracy": "m"}
}

func (p positionData) pose() pose { return pose{p.X, p.Y, fromCompass(p.Heading)} }

const fixPatience = 5 * time.Second // without satellites before the service calls itself degraded

func newFusion() *fusion {
	return &fusion{filter: newFilter(dockPose), fixAt: time.Now(), out: newLatest[positionData]()}
}

func (f *fusion) needs() []string { return []string{"hardware_interface"} }

func (f *fusion) health(context.Context) (service.State, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if since := time.Since(f.fixAt); since > fixPatience {
		return service.Degraded, "no satellite fix for " + since.Round(time.Second).String()
	}
	return service.Healthy, ""
}

func (f *fusion) setup(ctx context.Context, n *node) error {
	service.Handle(n.Service, "get_pose", func(context.Context, struct{}) (positionData, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.pose, nil
	}, service.Description("Tells where the mower is, estimated from all its sensors."), service.Repeatable())
	f.mu.Lock()
	f.fixAt = time.Now()
	f.mu.Unlock()
	// One subscription, so that one handler sees the sensors in the order in which they were read.
	return n.on(ctx, "sensors/+/data", f.sense)
}

func (f *fusion) sense(d *client.Delivery) {
	switch d.Topic {
	case "sensors/imu/data":
		if r, err := message.SensorOf[imuReading](d.Message); err == nil {
			f.mu.Lock()
			f.yaw, f.hasYaw = r.Orientation.Yaw*math.Pi/180, true
			f.mu.Unlock()
		}
	case "sensors/odometry/data":
		if r, err := message.SensorOf[odometryReading](d.Message); err == nil {
			f.roll(r)
		}
	case "sensors/gps/data":
		if r, err := message.SensorOf[gpsReading](d.Message); err == nil && r.Accuracy > 0 {
			f.mu.Lock()
			f.filter.correct(local(r.Latitude, r.Longitude), r.Accuracy)
			f.fixAt = time.Now()
			f.mu.Unlock()
		}
	}
}

func (f *fusion) roll(r odometryReading) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.hasYaw {
		return
	}
	f.filter.predict(r.Left, r.Right, f.yaw)
	if !f.filter.fixed {
		return
	}
	at := f.filter.at
	latitude, longitude := geographic(at.at())
	f.pose = positionData{
		X: round(at.X, 4), Y: round(at.Y, 4), Latitude: round(latitude, 9), Longitude: round(longitude, 9),
		Heading: round(compass(at.Heading), 3), Speed: r.Speed, Accuracy: round(f.filter.accuracy(), 4),
	}
	f.out.put(f.pose)
}

func (f *fusion) begin(n *node) {
	follow(n, f.out, func(p positionData) { n.sendData("sensors/fusion/data", "fusion", p, positionUnits()) })
}
