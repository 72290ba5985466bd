package tracing_test

import (
	"context"
	"fmt"

	"github.com/lawnberry/lawnberry/tracing"
)

func ExampleStart() {
	tracer, err := tracing.Start(tracing.Options{Service: "navigation", Endpoint: "http://localhost:4318", SampleRatio: 0.1})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer tracer.Stop(context.Background()) // and client.Options{Tracer: tracer}

	ctx, span := tracer.Begin(context.Background(), "plan a path")
	fmt.Println(len(tracing.TraceID(ctx)), "digits")
	span.End(nil)
	// Output: 32 digits
}
