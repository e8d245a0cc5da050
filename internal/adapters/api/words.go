package api

import (
	"fmt"

	"github.com/docket-project/docket/internal/deadletter"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/erase"
	"github.com/docket-project/docket/internal/job"
	"github.com/docket-project/docket/internal/operate"
	"github.com/docket-project/docket/internal/reproject"
)

// words say in English what codes of the use cases mean.
type words map[string]func(domain.Args) string

// books are all of them.
var books = []words{jobWords, refusalWords, statusWords}

// jobWords are those of jobs, and of what stands in the audit.
var jobWords = words{
	operate.Waiting: fixed("it waits until a parking role starts it"),
	operate.NobodyWorks: fixed("no parking process is alive, which jobs are done by: it waits until one starts. docket " +
		"status tells more"),
	operate.WaitingForOthers: fixed("it waits for a job of other tenants to end"),
	operate.WaitingFor:       func(a domain.Args) string { return "it waits for job " + a.Text("job") + " to end" },
	operate.NothingLeft:      nothingLeft,
	operate.Canceled:         func(a domain.Args) string { return a.Text("caller") + " canceled it" },
	operate.Paused:           func(a domain.Args) string { return a.Text("caller") + " paused it" },
	operate.Resumed:          func(a domain.Args) string { return a.Text("caller") + " resumed it" },
	operate.AcceptedUntil:    func(a domain.Args) string { return "until " + a.Text("until") },
	operate.Revoked:          fixed("the acceptance has ended"),
	operate.ReplayedTooOften: func(a domain.Args) string {
		return fmt.Sprintf("nothing is left to do: %s replayed %s already. "+
			"Find out why they come back; a max_replays of %d lets them go once more",
			counted(a.Count("matched"), "dead letter fits the filter, and was", "dead letters fit the filter, and were"),
			counted(a.Count("max_replays"), "time", "times"), a.Count("max_replays")+1)
	},

	job.Stalled: func(a domain.Args) string {
		return "it cannot continue now; docket tries again: " + a.Text("error")
	},
	job.Failed: func(a domain.Args) string { return "it failed: " + a.Text("error") },
	OwnerGone:  fixed("the process that worked on it is gone; the next parking role takes it up"),

	deadletter.DiscardDone: func(a domain.Args) string {
		return counted(a.Count("done"), "dead letter is", "dead letters are") +
			" discarded. Their bytes stay in the log until the topic's retention, and until then they can be replayed"
	},
	deadletter.ReindexDone: func(a domain.Args) string {
		return counted(a.Count("done"), "record", "records") + " of the dead-letter topics are in the index"
	},
	deadletter.ReplayDone: replayDone,
	deadletter.ReplayCanary: func(a domain.Args) string {
		return fmt.Sprintf("it has sent the first %d, and waits to see what becomes of them", a.Count("sent"))
	},
	deadletter.ReplayCrowded: func(a domain.Args) string {
		return fmt.Sprintf("%d are on their way; it waits for them before it sends more", a.Count("on_the_way"))
	},
	deadletter.ReplaySent: func(a domain.Args) string {
		return fmt.Sprintf("it has sent everything, and waits for the last %d", a.Count("on_the_way"))
	},
	deadletter.ReplayStopped: func(a domain.Args) string {
		return fmt.Sprintf("%d of %d replayed dead letters failed again, more than %.0f %%. Find out why and fix it; "+
			"then cancel the job and replay anew. If you resume the job, it sends only the rest", a.Count("failed"),
			a.Count("done"),
			100*a.Share("stop_ratio"))
	},
	deadletter.DryRunProgress: func(a domain.Args) string {
		return fmt.Sprintf("%d of %d looked at, %d tried", a.Count("seen"), a.Count("of"), a.Count("tried"))
	},
	deadletter.WouldDiscard: func(a domain.Args) string {
		return counted(a.Count("of"), "dead letter", "dead letters") + " would be discarded"
	},
	reproject.Progress: func(a domain.Args) string {
		return fmt.Sprintf("%s looked at, %d of them differ; it is at %s",
			counted(a.Count("rows"), "decision", "decisions"), a.Count("changed"), a.Text("day"))
	},
	reproject.Done: func(a domain.Args) string {
		return fmt.Sprintf("%s looked at, and the columns of %d changed",
			counted(a.Count("rows"), "decision", "decisions"), a.Count("changed"))
	},
	reproject.WouldChange: func(a domain.Args) string {
		return fmt.Sprintf("%s looked at; the columns of %d would change",
			counted(a.Count("rows"), "decision", "decisions"), a.Count("changed"))
	},
	operate.EraseOrdered: func(a domain.Args) string {
		return "nothing about the subject " + a.Text("subjects") + " is stored any more"
	},
	erase.Spreading: fixed("in force; it waits until every saver has heard of it, and then removes what is stored"),
	erase.Progress: func(a domain.Args) string {
		return erased(a) + " so far"
	},
	erase.Done: func(a domain.Args) string {
		return fmt.Sprintf("%s about the subject %s erased. %s", erased(a), a.Text("subjects"), inTheLog(a))
	},
	erase.WouldErase: func(a domain.Args) string {
		return fmt.Sprintf("%s about the subject %s would be erased. %s", erased(a), a.Text("subjects"), inTheLog(a))
	},
	domain.NothingMatches: fixed("no dead letter matches the filter"),
	deadletter.BytesGone:  fixed("none of them is in the log any more"),
	deadletter.Safe: func(a domain.Args) string {
		return fmt.Sprintf("all of the %d that docket tried would be stored now: it is safe to replay them", a.Count("tried"))
	},
	deadletter.AllFail: func(a domain.Args) string {
		return fmt.Sprintf("all of the %d that docket tried would fail again: do not replay them yet", a.Count("tried"))
	},
	deadletter.SomeFail: func(a domain.Args) string {
		return fmt.Sprintf(
			"%d of the %d that docket tried would fail again: do not replay all of them yet. Fix the cause first, or choose "+
				"the others",
			a.Count("failed"),
			a.Count("tried"),
		)
	},
	operate.RetentionApplied: func(a domain.Args) string {
		return "in force; " + a.Text("days") + " days with decisions were past it"
	},
	operate.LogRewound:     func(a domain.Args) string { return a.Text("records") + " records are read again" },
	operate.LossAccepted:   func(a domain.Args) string { return "given up for " + a.Text("group") },
	deadletter.ExpiredOpen: fixed("the topic's retention has passed; they were still open"),
}

// erased counts what an erasure removes.
func erased(a domain.Args) string {
	return counted(a.Count("rows"), "decision", "decisions") + " and " +
		counted(a.Count("letters"), "dead letter", "dead letters")
}

// inTheLog tells what an erasure leaves, and until when nothing of that is stored again.
func inTheLog(a domain.Args) string {
	text := "What the log has of it is not stored again"
	if until := a.Text("until"); until != "" {
		text += ", until the log has forgotten it (" + until + " at the latest)"
	}
	if n := a.Count("unclear"); n > 0 {
		text += fmt.Sprintf(". Nobody can tell whom %s about: discard what you do not need",
			counted(n, "other dead letter is", "other dead letters are"))
	}
	return text
}

// refusalWords are those of operate's refusals.
var refusalWords = words{
	operate.RoleMissing: func(a domain.Args) string {
		return fmt.Sprintf(
			"%s may look and not change anything: that needs the role %s", a.Text("caller"), a.Text("role"),
		)
	},
	operate.FilterPaged:   fixed("a filter cannot have limit or cursor: use max to bound a job"),
	operate.FilterInvalid: func(a domain.Args) string { return "filter: " + a.Text("error") },
	operate.RateRange: func(a domain.Args) string {
		return fmt.Sprintf(
			"rate %s: it is in dead letters a second, from %s on; leave it out for as fast as it goes", a.Text("rate"),
			a.Text("least"),
		)
	},
	operate.MaxRange: func(a domain.Args) string {
		return fmt.Sprintf("max %d: at least 1; leave it out for all", a.Count("max"))
	},
	operate.MaxReplaysRange: func(a domain.Args) string {
		return fmt.Sprintf("max_replays %d: from 1 to %d", a.Count("max_replays"), a.Count("most"))
	},
	operate.StopRatioRange: func(a domain.Args) string {
		return fmt.Sprintf("stop_ratio %s: a share above 0, up to 1", a.Text("stop_ratio"))
	},
	operate.CommentMissing: func(a domain.Args) string {
		return fmt.Sprintf(
			"a comment is wanted, of at most %d bytes: say why, for those who read the audit",
			a.Count("most"),
		)
	},
	operate.ReindexFiltered: fixed("reindexing reads everything: it takes no filter"),
	operate.ReindexScoped: fixed("reindexing reads the dead letters of all tenants: it needs a caller that may see " +
		"all of them"),
	operate.ReprojectBounded: fixed("a reprojection goes through everything that since, until and its filter choose: it " +
		"takes no max, max_replays or stop_ratio"),
	operate.ErasureFilter: func(a domain.Args) string {
		if a.Text("name") == "" {
			return "an erasure needs a principal: whom it is about"
		}
		return a.Text("name") + ": an erasure is about principal and tenant, each named whole: a ! in front of a name and " +
			"a * behind it are doubled where they belong to it"
	},
	operate.ErasureName: func(a domain.Args) string {
		return fmt.Sprintf("principal: docket stores the first %d bytes of it. Name what docket find shows; whoever begins "+
			"with the same is erased as well", a.Count("most"))
	},
	operate.ErasureBounded: fixed("an erasure removes everything that it is about: it takes no rate, max, max_replays " +
		"or stop_ratio"),
	operate.ErasureOfOthers: func(a domain.Args) string {
		return "you may not see the tenant " + a.Text("tenant") + ", and so erase nothing there"
	},
	operate.AcceptanceOfOthers: func(a domain.Args) string {
		return fmt.Sprintf("the acceptance of %s is also for tenants that you may not see: you cannot end it",
			a.Text("fingerprint"))
	},
	operate.NoFingerprint: func(a domain.Args) string {
		return fmt.Sprintf(
			"%q is no fingerprint: the dead-letter guard lists those of the last ten minutes",
			a.Text("fingerprint"),
		)
	},
	operate.NoAcceptance: func(a domain.Args) string {
		return fmt.Sprintf("%s is not accepted at the moment", a.Text("fingerprint"))
	},
	operate.NoJob: func(a domain.Args) string { return fmt.Sprintf("there is no job %s", a.Text("job")) },
	operate.JobTwin: func(a domain.Args) string {
		return fmt.Sprintf("job %s does the same and has not ended: wait for it, resume it, or cancel it", a.Text("job"))
	},
	operate.JobState: func(a domain.Args) string {
		return fmt.Sprintf("job %s is %s: you cannot %s it", a.Text("job"), a.Text("state"), a.Text("move"))
	},
}

// counted puts a number in front of the word that goes with it.
func counted(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// span spells seconds for people.
func span(seconds int64) string {
	switch {
	case seconds < 120:
		return fmt.Sprintf("%d s", seconds)
	case seconds < 2*60*60:
		return fmt.Sprintf("%d min", seconds/60)
	case seconds < 48*60*60:
		return fmt.Sprintf("%d h", seconds/60/60)
	}
	return fmt.Sprintf("%d days", seconds/60/60/24)
}

func fixed(sentence string) func(domain.Args) string {
	return func(domain.Args) string { return sentence }
}

// Word says a message in English; a code that this docket does not know stands for itself.
func Word(m domain.Message) string {
	for _, w := range books {
		if say, known := w[m.Code]; known {
			return say(m.Args)
		}
	}
	return m.Code
}

func nothingLeft(a domain.Args) string {
	return fmt.Sprintf(
		"nothing is left to do: of what fits the filter in any state, %d are stored already, %d replayed, %d discarded and "+
			"%d open",
		a.Count("stored"),
		a.Count("replayed"),
		a.Count("discarded"),
		a.Count("open"),
	)
}

func replayDone(a domain.Args) string {
	sentence := fmt.Sprintf(
		"%d replayed: %d are stored, %d failed again", a.Count("done"), a.Count("stored"), a.Count("failed"),
	)
	for _, part := range []struct{ name, text string }{
		{"reparsed", ", %d were quarantined bytes that can be read now"}, {"on_the_way", ", %d are still on their way"},
		{"skipped", ", %d were left alone because their bytes are not in the log any more"},
	} {
		if n := a.Count(part.name); n > 0 {
			sentence += fmt.Sprintf(part.text, n)
		}
	}
	return sentence
}
