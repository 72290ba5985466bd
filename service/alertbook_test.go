package service

import (
	"errors"
	"testing"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// What a program raises that is no service is counted and keeps its acknowledgement, as what services raise.
func TestAlertBookRaise(t *testing.T) {
	var b AlertBook
	raise := func(severity, by string) Alert {
		t.Helper()
		m, err := b.Raise(message.Alert{AlertType: "fox", Severity: severity}, by)
		if err != nil {
			t.Fatal(err)
		}
		b.Take(&client.Delivery{Topic: "safety/alerts/fox", Message: m})
		all := b.Alerts()
		if len(all) != 1 {
			t.Fatalf("%+v", all)
		}
		return all[0]
	}
	first := raise("warning", "anna")
	if first.Count != 1 || first.Sender != "anna" || first.Acknowledged {
		t.Errorf("%+v", first)
	}
	m, err := b.Acknowledgement("fox", "berta")
	if err != nil {
		t.Fatal(err)
	}
	b.Take(&client.Delivery{Topic: "safety/alerts/fox", Message: m})
	if a := raise("warning", "anna"); a.Count != 2 || a.AcknowledgedBy != "berta" || !a.FirstRaised.Round(0).Equal(first.FirstRaised.Round(0)) {
		t.Errorf("again: %+v, first %+v", a, first)
	}
	if a := raise("critical", "carl"); a.Count != 3 || a.Acknowledged || a.Sender != "carl" {
		t.Errorf("worse: %+v", a)
	}
	if a := raise("info", "anna"); a.Count != 4 || a.Severity != "critical" || a.Sender != "carl" {
		t.Errorf("another's, less severe: %+v", a)
	}
	var bad *topic.Error
	if _, err := b.Raise(message.Alert{AlertType: "a/b", Severity: "info"}, "anna"); !errors.As(err, &bad) {
		t.Errorf("got %v", err)
	}
	var rule *message.Error
	if _, err := b.Raise(message.Alert{AlertType: "fox", Severity: "bad"}, "anna"); !errors.As(err, &rule) {
		t.Errorf("got %v", err)
	}
}
