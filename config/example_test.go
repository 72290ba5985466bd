package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lawnberry/lawnberry/config"
)

func ExampleLoad() {
	dir, err := os.MkdirTemp("", "lawnberry")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "mower.yaml")
	if err := os.WriteFile(file, []byte("broker:\n  prot: 1884\n"), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	loaded, err := config.Load(file, []string{"LAWNBERRY_BROKER_KEEPALIVE=30"})
	var problems config.Problems
	if errors.As(err, &problems) {
		fmt.Println("cannot be used:", problems)
		return
	}
	for _, p := range loaded.Problems {
		fmt.Println(p.Severity, p.Line, p.Key, p.Nearest)
	}
	fmt.Println(loaded.Config.Broker.Port, loaded.Origin("broker.port"))
	fmt.Println(loaded.Config.Broker.KeepAlive, loaded.Origin("broker.keepalive"))
	// Output:
	// warning 2 broker.prot broker.port
	// 1883 default
	// 30s environment LAWNBERRY_BROKER_KEEPALIVE
}

func ExampleKeys() {
	for k := range config.Keys() {
		if k.Path == "client.reconnect_delay" {
			fmt.Println(k.Env, k.Type, k.Allowed, k.Unit, k.Default)
		}
	}
	// Output: LAWNBERRY_CLIENT_RECONNECT_DELAY number 0.01 to 3600 seconds 5
}
