package demo

import (
	"context"
	"time"

	"github.com/lawnberry/lawnberry/service"
)

// Vision is vision: it looks through the cameras five times a second and publishes what it sees: every frame with something
// in it, a few empty ones after that, and an empty one now and then, so that who relies on it knows that it looks.
type vision struct {
	camera *camera
	empty  int // frames since something was seen
}

type (
	detectionData struct {
		Frame   uint64   `json:"frame"`
		Objects []object `json:"objects"`
		Count   int      `json:"count"`
	}
	analysisData struct {
		Frame      uint64  `json:"frame"`
		Brightness float64 `json:"brightness"`
		Grass      float64 `json:"grass_coverage"`
		Objects    int     `json:"objects"`
		Processing float64 `json:"processing_time"` // ms
	}
)

const (
	framePeriod   = 200 * time.Millisecond
	emptyRepeated = 4  // empty frames that are published after one with something in it
	emptyEvery    = 10 // and then each so many
	analysisEvery = 40 // frames
)

func (v *vision) needs() []string { return []string{"hardware_interface"} }

func (v *vision) health(context.Context) (service.State, string) { return service.Healthy, "" }

func (v *vision) setup(context.Context, *node) error { return nil }

func (v *vision) begin(n *node) {
	n.every(framePeriod, func() {
		began := time.Now()
		f := v.camera.Look()
		took := time.Since(began)
		if len(f.Objects) > 0 {
			v.empty = 0
		}
		if v.empty <= emptyRepeated || v.empty%emptyEvery == 0 {
			n.sendData("vision/detections", "detections", detectionData{f.Number, f.Objects, len(f.Objects)},
				map[string]string{"distance": "m", "bearing": "deg"})
		}
		v.empty++
		if f.Number%analysisEvery == 1 {
			n.sendData("vision/frame_analysis", "frame_analysis",
				analysisData{f.Number, f.Brightness, f.Grass, len(f.Objects), round(took.Seconds()*1e3, 3)}, map[string]string{"processing_time": "ms"})
		}
	})
}
