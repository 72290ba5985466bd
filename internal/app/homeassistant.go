package app

import (
	"context"
	"fmt"

	"github.com/lawnberry/lawnberry/bridge/homeassistant"
	"github.com/lawnberry/lawnberry/config"
)

// HomeAssistantSettings returns how a configuration wants the mower shown to Home Assistant, whether or not it is.
func HomeAssistantSettings(c *config.Config, version string) homeassistant.Settings {
	h := &c.Integration.HomeAssistant
	s := homeassistant.Settings{
		Prefix: h.DiscoveryPrefix, BirthTopic: h.BirthTopic, DeviceID: h.DeviceID, DeviceName: h.DeviceName, Version: version,
		MowerService: h.MowerService, StartCommand: h.StartCommand, PauseCommand: h.PauseCommand, DockCommand: h.DockCommand, Activities: h.Activities,
	}
	if at, ok := c.LawnOrigin(); ok {
		s.Origin = &homeassistant.Origin{Latitude: at.Latitude, Longitude: at.Longitude}
	}
	return s
}

// startHome starts the bridge to Home Assistant, if the configuration wants it.
func (a *App) startHome(ctx context.Context, o Options) error {
	if !o.Config.Integration.HomeAssistant.Enabled {
		return nil
	}
	c, err := a.within(o.Config, homeassistant.ID)
	if err != nil {
		return fmt.Errorf("bridge to Home Assistant: %w", err)
	}
	a.home, err = homeassistant.Start(ctx, homeassistant.Options{Settings: HomeAssistantSettings(o.Config, o.Version), Client: c, Logger: a.part("homeassistant")})
	return err
}
