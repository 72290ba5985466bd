package demo

import (
	"context"
	"time"

	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// Weather is weather: the conditions, the forecast, and an alert when it begins to rain.
type weather struct {
	world *world
	rain  bool
}

type forecastData struct {
	Hours []outlook `json:"hours"`
}

func (w *weather) needs() []string { return nil }

func (w *weather) health(context.Context) (service.State, string) { return service.Healthy, "" }

func (w *weather) setup(_ context.Context, n *node) error {
	service.Handle(n.Service, "get_weather", func(context.Context, struct{}) (conditions, error) {
		now, _ := w.world.Weather()
		return now, nil
	}, service.Description("Tells the weather over the lawn now."), service.Repeatable())
	service.Handle(n.Service, "get_forecast", func(context.Context, struct{}) (forecastData, error) {
		_, hours := w.world.Weather()
		return forecastData{hours}, nil
	}, service.Description("Tells the weather of the hours to come."), service.Repeatable())
	return nil
}

func (w *weather) begin(n *node) {
	n.every(10*time.Second, func() {
		now, _ := w.world.Weather()
		n.sendData("weather/current", "weather", now, map[string]string{
			"temperature": "°C", "humidity": "%", "pressure": "hPa", "wind_speed": "m/s", "wind_direction": "deg",
			"cloud_cover": "%", "precipitation": "mm/h", "irradiance": "W/m²",
		})
		if rain := now.Precipitation > 0; rain != w.rain {
			w.rain = rain
			a := message.Alert{AlertType: "rain", Severity: "warning", Message: "It begins to rain"}
			if !rain {
				a.Severity, a.Message, a.AutoResolve = "info", "The rain is over", true
			}
			m, err := message.NewAlert(n.id, a)
			n.send("weather/alerts", m, err)
		}
	})
	n.every(5*time.Minute, func() {
		_, hours := w.world.Weather()
		n.sendData("weather/forecast", "forecast", forecastData{hours}, map[string]string{"temperature": "°C", "precipitation_probability": "%", "wind_speed": "m/s"})
	})
}
