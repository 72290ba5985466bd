package uitest

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(bridgeBroker) != "" {
		beBridge()
		return
	}
	if os.Getenv(fleetEngine) != "" {
		beFleetUI()
		return
	}
	goleak.VerifyTestMain(m)
}
