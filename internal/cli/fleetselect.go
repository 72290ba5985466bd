package cli

import (
	"cmp"
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

	patience time.Duration // to find out which mowers there are; 0 is selectTime

	changed func(flag string) bool
	stops   bool // the verb is the emergency stop: who is not reached is named, and who is selected by then as well is stopped too
	begun   bool // somebody has been asked, or nobody should be
	// more returns who is selected by now and was not asked; missing says that there may be more yet. It is nil where those of the beginning count.
	more func(asked map[string]bool) (mowers []string, missing error)
}

// selected reports whether the mowers are not named.
func (s *mowerSelection) selected() bool { return s.all || s.where != "" }

// selectTime is how long it may take to find out which mowers there are.
const selectTime = 20 * time.Second

// flags adds the flags of a selection; what is what the verb does, as in "stop".
func (s *mowerSelection) flags(c *cobra.Command, what string, most int) {
	c.Flags().StringVar(&s.where, "where", "", what+" the mowers that `CONDITION` is true of, such as 'battery<20 and state=mowing'")
	c.Flags().BoolVar(&s.all, "all", false, what+" all mowers that the engine knows")
	c.Flags().BoolVarP(&s.yes, "yes", "y", false, "do not ask, with --where and --all")
	c.Flags().IntVar(&s.most, "parallel", most, "ask so many mowers at once")
	s.changed = c.Flags().Changed
}

// take takes the mowers from the arguments, the first one unless a flag selects them, and returns the others.
func (s *mowerSelection) take(args []string) ([]string, error) {
	if s.all && s.where != "" {
		return nil, usagef("--all and --where exclude each other")
	}
	if s.most <= 0 {
		return nil, usagef("--parallel %d: want more than 0", s.most)
	}
	if s.changed("where") && strings.TrimSpace(s.where) == "" { // a variable of a script that is empty
		return nil, usagef("--where is empty: want a condition such as 'battery<20', or --all for all mowers")
	}
	if s.selected() {
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
		return t.withSelected(ctx, views, o, s, where, question, do)
	})
}

// withSelected calls do with the mowers that a condition is true of, all for nil.
func (t *tool) withSelected(ctx context.Context, views fleetViews, o fleet.Operator, s *mowerSelection, where *fleet.Where, question string,
	do func(ctx context.Context, o fleet.Operator, mowers []string) error,
) error {
	v := viewFor(views, where)
	defer v.Close()
	missing, err := waitForMowers(ctx, v, cmp.Or(s.patience, selectTime))
	if err != nil {
		return err
	}
	mowers := selectMowers(v, where)
	if len(mowers) == 0 {
		if missing != nil { // nobody knows
			return missing
		}
		return failf(exitRefused, "there is no such mower")
	}
	if !s.yes {
		fmt.Fprintf(t.stderr, "%s\n", strings.Join(mowers, " "))
		agreed, err := t.confirm(ctx, fmt.Sprintf("%s %s?", question, plural(len(mowers), "mower")))
		switch {
		case err != nil:
			return err
		case !agreed:
			s.begun = true
			return failf(exitFailed, "nothing was done")
		}
	}
	if s.stops {
		s.more = func(asked map[string]bool) ([]string, error) {
			late := slices.DeleteFunc(selectMowers(v, where), func(m string) bool { return asked[m] })
			return late, notAll(v)
		}
		return do(ctx, o, mowers)
	}
	return errors.Join(do(ctx, o, mowers), missing)
}

// viewFor opens a view of what a condition asks for; nil asks for nothing.
func viewFor(views fleetViews, where *fleet.Where) *fleet.View {
	o := fleet.ViewOptions{Filters: []string{}}
	if where != nil {
		o.Filters = where.Topics()
	}
	return views(o)
}

// waitForMowers waits until a view knows which mowers there are, so long at most. missing says that there may be more than it knows.
func waitForMowers(ctx context.Context, v *fleet.View, patience time.Duration) (missing, err error) {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_ = v.Wait(limited) // notAll says so
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return notAll(v), nil
}

// notAll says why there may be more mowers than a view knows, nil if there are none.
func notAll(v *fleet.View) error {
	l := v.Link()
	switch {
	case !l.Current:
		return failf(exitTimeout, "the engine does not say which mowers there are, so there may be more: %s", cmp.Or(l.Problem, "its state is being read"))
	case l.LeftOut > 0:
		return failf(exitTimeout, "there are %s more than fit here, which were left out: name them", plural(l.LeftOut, "mower"))
	}
	return nil
}

// selectMowers returns the mowers of which a condition is true, all for nil: those that are there first, as nobody else can do anything.
func selectMowers(v *fleet.View, where *fleet.Where) []string {
	found := v.Select(where)
	slices.SortStableFunc(found, func(a, b *fleet.Mower) int { return compareBool(b.Online, a.Online) })
	mowers := make([]string, 0, len(found))
	for _, m := range found {
		mowers = append(mowers, m.ID)
	}
	return mowers
}
