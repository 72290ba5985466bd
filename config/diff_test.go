package config

import (
	"slices"
	"testing"
)

func TestChanges(t *testing.T) {
	t.Parallel()
	a, b := Default(), Default()
	if live, restart := Changes(a, b); live != nil || restart != nil {
		t.Errorf("%v, %v", live, restart)
	}
	b.Broker.MaxConnections++
	b.Broker.Auth.Password = "hunter2"
	b.ServiceDefinitions = map[string]ServiceDefinition{"gps": {ServiceType: "sensors"}}
	b.Topics.RateLimits = map[string]int{"sensors/gps/data": 5}
	live, restart := Changes(a, b)
	if !slices.Equal(live, []string{"broker.max_connections", "service_definitions"}) || !slices.Equal(restart, []string{"broker.auth.password", "topics.rate_limits"}) {
		t.Errorf("%v, %v", live, restart)
	}
}
