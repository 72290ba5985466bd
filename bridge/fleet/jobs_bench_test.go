package fleet

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/natstest"
)

// BenchmarkJob measures how long it is from the beginning of AddJob until a job that does nothing has its end on the disk of an idle mower.
func BenchmarkJob(b *testing.B) {
	for _, nodes := range []int{1, 3} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			y := newYard(b, natstest.Cluster(b, nodes), nil)
			ctx := testContext(b)
			var added, ended []time.Duration
			for b.Loop() {
				y.left(0) // it is idle
				began := time.Now()
				id, err := y.anna.AddJob(ctx, yardMower, "navigation", "count", nil, began.Add(time.Hour), 0)
				check(b, err)
				added = append(added, time.Since(began))
				for len(y.jobEnds(id)) == 0 {
					time.Sleep(100 * time.Microsecond)
				}
				ended = append(ended, time.Since(began))
			}
			slices.Sort(added)
			slices.Sort(ended)
			b.ReportMetric(float64(added[len(added)/2].Microseconds())/1000, "ms-added")
			b.ReportMetric(float64(ended[len(ended)/2].Microseconds())/1000, "ms-ended")
			b.ReportMetric(float64(ended[len(ended)-1].Microseconds())/1000, "ms-worst")
		})
	}
}
