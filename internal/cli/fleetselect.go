package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

// A mowerSelection is which mowers a verb is for.
type mowerSelection struct {
	mowers []string
	where  string
	all    bool
	yes    bool
	most   int
}

// selectTime is how long it may take to find out which mowers there are.
const selectTime = 20 * time.Second

// flags adds the flags of a selection; what is what the verb does, as in "stop".
func (s *mowerSelection) flags(c *cobra.Command, what string, most int) {
	c.Flags().StringVar(&s.where, "where", "", what+" the mowers that `CONDITION` is true of, such as 'battery<20 and state=mowing'")
	c.Flags().BoolVar(&s.all, "all", false, what+" all mowers that the engine knows")
	c.Flags().BoolVarP(&s.yes, "yes", "y", false, "do not ask, with --where and --all")
	c.Flags().IntVar(&s.most, "parallel", most, "ask so many mowers at once")
}

// take takes the mowers from the arguments, the first one unless a flag selects them, and returns the others.
func (s *mowerSelection) take(args []string) ([]string, error) {
	if s.all && s.where != "" {
		return nil, usagef("--all and --where exclude each other")
	}
	if s.most <= 0 {
		return nil, usagef("--parallel %d: want more than 0", s.most)
	}
	if s.all || s.where != "" {
		return args, nil
	}
	if len(args) == 0 {
		return nil, usagef("MOWER is missing: name one or more, or select them with --where or --all")
	}
	var err error
	s.mowers, err = mowerList(args[0])
	return args[1:], err
}

// withMowers calls do with an operator and the mowers that are selected; without names it asks first, unless it is told not to.
func (f *fleetAccess) withMowers(ctx context.Context, t *tool, s *mowerSelection, question string, do func(ctx context.Context, o fleet.Operator, mowers []string) error) error {
	if len(s.mowers) > 0 {
		return f.withOperator(ctx, t, func(ctx context.Context, o fleet.Operator) error { return do(ctx, o, s.mowers) })
	}
	var where *fleet.Where
	if s.where != "" {
		var err error
		if where, err = fleet.ParseWhere(s.where); err != nil {
			return usagef("--where: %w", err)
		}
	}
	if err := t.mayAsk(s.yes); err != nil {
		return err
	}
	return f.withFleet(ctx, t, func(ctx context.Context, views fleetViews, o fleet.Operator) error {
		mowers, missing, err := findMowers(ctx, views, where)
		if err != nil {
			return err
		}
		if len(mowers) == 0 {
			return errors.Join(failf(exitRefused, "there is no such mower"), missing)
		}
		if !s.yes {
			fmt.Fprintf(t.stderr, "%s\n", strings.Join(mowers, " "))
			agreed, err := t.confirm(ctx, fmt.Sprintf("%s %s?", question, plural(len(mowers), "mower")))
			switch {
			case err != nil:
				return err
			case !agreed:
				return failf(exitFailed, "nothing was done")
			}
		}
		return errors.Join(do(ctx, o, mowers), missing)
	})
}

// findMowers returns the mowers of which a condition is true, all for nil. missing says that there may be more.
func findMowers(ctx context.Context, views fleetViews, where *fleet.Where) (mowers []string, missing error, err error) {
	o := fleet.ViewOptions{Filters: []string{}}
	if where != nil {
		o.Filters = where.Topics()
	}
	v := views(o)
	defer v.Close()
	limited, cancel := context.WithTimeout(ctx, selectTime)
	defer cancel()
	if err := v.Wait(limited); err != nil {
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		missing = failf(exitTimeout, "the engine did not say in %s which mowers there are, so there may be more: %s", selectTime, v.Link().Problem)
	}
	found := v.Mowers()
	if where != nil {
		found = v.Select(where)
	}
	for _, m := range found {
		mowers = append(mowers, m.ID)
	}
	slices.Sort(mowers)
	return mowers, missing, nil
}
