package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Bounds of a mower's list of jobs in [BucketJobs].
const (
	MaxJobs     = 64        // that wait or run; a list with as many takes no more
	MaxJobBytes = 512 << 10 // of the list as it is stored, where a command is a third longer than it is

	// Beyond those the emergency stop has room of its own.
	maxStopJobs     = 8
	maxStopJobBytes = 64 << 10

	// mostJobBytes is the largest message of the bucket, with what headers and marks add.
	mostJobBytes = 640 << 10

	// MaxJobTime is the latest deadline of a job, from when it is made on.
	MaxJobTime = 31 * 24 * time.Hour
	// JobEndTime is how long after its deadline a job stays for its mower, which says when it comes that it has not run. A list that is full
	// gives up those that are older.
	JobEndTime = 7 * 24 * time.Hour
)

// A JobList is the document of a mower in [BucketJobs]: its jobs which wait or run, in the order in which they were added. Operators add and remove
// jobs, the mower marks and removes them; each writes on the condition that nobody has written since it has read. A mower without jobs
// has none, or a deleted one.
type JobList struct {
	Jobs []KeptJob `json:"jobs"`
}

// A KeptJob is a command that the engine keeps for a mower.
type KeptJob struct {
	ID      string            `json:"id"` // message_id of the command
	Service string            `json:"service"`
	Body    []byte            `json:"body"`              // the command as it was signed
	Headers map[string]string `json:"headers,omitempty"` // the signature
	Added   time.Time         `json:"added"`
	Expires time.Time         `json:"expires"`         // for operators; the mower goes by what is signed
	Begun   *JobMark          `json:"begun,omitempty"` // null while it waits: then it may be taken back
}

// A JobMark says that a mower is about to run a job. It is written before that: what has none has not run, and whoever removes it then has
// made sure that it will not.
type JobMark struct {
	Time time.Time `json:"time"`
	By   string    `json:"by"` // the record of commands on the mower's disk, which knows whether the job has run; another disk has another
}

// ErrJobsUnreadable is a list of jobs that is none. Nobody but an operator who means it removes it, as newer programs may know what it says.
var ErrJobsUnreadable = errors.New("the list of jobs cannot be read")

// ReadJobs reads a list as it is stored; nothing is an empty one.
func ReadJobs(body []byte) (JobList, error) {
	var l JobList
	if len(body) == 0 {
		return l, nil
	}
	err := json.Unmarshal(body, &l)
	if err == nil && l.Jobs == nil {
		err = errors.New("it has no jobs")
	}
	if err != nil {
		return JobList{}, fmt.Errorf("%w: %w", ErrJobsUnreadable, err)
	}
	return l, nil
}

// Bytes returns the list as it is stored, nil for an empty one.
func (l *JobList) Bytes() ([]byte, error) {
	if len(l.Jobs) == 0 {
		return nil, nil
	}
	return json.Marshal(l)
}

// Index returns where the job with an id is, -1 without one.
func (l *JobList) Index(id string) int {
	return slices.IndexFunc(l.Jobs, func(j KeptJob) bool { return j.ID == id })
}

// errJobsFull is a list that has no room.
var errJobsFull = errors.New("the list of jobs is full")

// add adds a job. When there is no room it gives up those whose end nobody waits for any more; emergency stops stay.
func (l *JobList) add(j KeptJob, now time.Time) error {
	count, bytes := MaxJobs, MaxJobBytes
	if j.Service == StopService {
		count, bytes = count+maxStopJobs, bytes+maxStopJobBytes
	}
	fits := func(jobs []KeptJob) (bool, error) {
		body, err := (&JobList{jobs}).Bytes()
		return len(jobs) <= count && len(body) <= bytes, err
	}
	all := append(slices.Clone(l.Jobs), j)
	ok, err := fits(all)
	if !ok && err == nil {
		all = slices.DeleteFunc(all, func(j KeptJob) bool { return j.Service != StopService && now.Sub(j.Expires) > JobEndTime })
		ok, err = fits(all)
	}
	if err != nil {
		return err
	}
	if !ok {
		return errJobsFull
	}
	l.Jobs = all
	return nil
}
