package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"

	"github.com/docket-project/docket/internal/domain"
)

// classify is the one place that turns SQLSTATEs (https://www.postgresql.org/docs/current/errcodes-appendix.html) and
// the driver's errors into classes.
func classify(op string, err error) error {
	if err == nil {
		return nil
	}
	var known *domain.Error
	if errors.As(err, &known) {
		return err
	}
	e := &domain.Error{Class: domain.Unknown, Op: op, Text: err.Error(), Err: err}
	var pg *pgconn.PgError
	var connect *pgconn.ConnectError
	var network net.Error
	switch {
	case errors.As(err, &pg):
		e.Class, e.Code, e.Text = classOf(pg.Code), pg.Code, textOf(pg)
		e.Answered = answers(pg.Code)
		if poolerOutage(pg) {
			e.Class = domain.Unavailable
		}
		if outgrown(pg) {
			e.Class = domain.Misconfigured
		}
	case errors.Is(err, context.Canceled), errors.Is(err, puddle.ErrClosedPool):
		e.Class = domain.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		e.Class, e.Text = domain.Unavailable, "the database does not answer in time"
	case errors.As(err, new(*tls.CertificateVerificationError)),
		errors.As(err, new(x509.UnknownAuthorityError)),
		strings.HasSuffix(err.Error(), "server refused TLS connection"):
		e.Class = domain.Misconfigured
	case errors.As(err, &connect), errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, net.ErrClosed), pgconn.SafeToRetry(err), strings.HasSuffix(err.Error(), "conn closed"):
		e.Class = domain.Unavailable
	}
	return e
}

// classOf looks a code up, whole first and then by its class of two characters.
func classOf(code string) domain.Class {
	if c, ok := codes[code]; ok {
		return c
	}
	if len(code) == 5 {
		if c, ok := codeClasses[code[:2]]; ok {
			return c
		}
	}
	return domain.Unknown
}

// answers reports that a server which is well may answer a statement so: a lock, a right, a file that is damaged. It is
// about to end, lets nobody in or has run out of something otherwise.
func answers(code string) bool {
	switch code {
	case "25006", "57014":
		return false
	}
	switch code[:min(2, len(code))] {
	case "08", "26", "28", "3D", "53", "57":
		return false
	}
	return true
}

// poolerOutage recognises what PgBouncer says when it cannot reach its server. It gives every message of its own the
// code of a protocol violation, as it does for what its settings do not allow; the routine, which PostgreSQL names,
// tells whose message it is.
func poolerOutage(pg *pgconn.PgError) bool {
	if pg.Code != "08P01" || pg.Routine != "" {
		return false
	}
	for _, setting := range []string{"unsupported", "no such", "not allowed", "auth"} {
		if strings.Contains(pg.Message, setting) {
			return false
		}
	}
	return true
}

// outgrown recognises the summary of a BRIN index that has no room in a page any more: the next row is not its cause. A
// btree's row is one row's (54000 as well). A single filter that is too large is an internal error to PostgreSQL.
func outgrown(pg *pgconn.PgError) bool {
	if pg.Code == "XX000" {
		return strings.HasPrefix(pg.Message, "the bloom filter is too large")
	}
	return pg.Code == "54000" && pg.File == "brin_pageops.c" // messages are translated
}

// codes are those that differ from their class.
var codes = map[string]domain.Class{
	"08P01": domain.Misconfigured, // protocol violation: a pooler that cannot do what is asked
	"25006": domain.Unavailable,   // read only: a standby, until the driver finds the new primary
	"25P03": domain.Unavailable,   // idle in a transaction for too long: we were
	"25P04": domain.Unavailable,   // a transaction's timeout
	"40001": domain.Unavailable,
	"40P01": domain.Unavailable,
	"55P03": domain.Unavailable,   // lock not available
	"55000": domain.Misconfigured, // not in prerequisite state
	"57014": domain.Unknown,       // canceled, mostly by a statement timeout: a probe tells whether the server is slow
	"23502": domain.Invalid,
	"23514": domain.Invalid,
	"42P05": domain.Misconfigured,
	"DK001": domain.Misconfigured, // docket's own: a dictionary is not there
	"XX001": domain.Misconfigured, // data corrupted
	"XX002": domain.Misconfigured, // index corrupted
}

var codeClasses = map[string]domain.Class{
	"08": domain.Unavailable,   // connection exception
	"0A": domain.Misconfigured, // feature not supported
	"22": domain.Invalid,       // data exception
	"26": domain.Misconfigured, // a prepared statement that is not there: a pooler
	"28": domain.Misconfigured, // authorization
	"3D": domain.Misconfigured, // no such database
	"3F": domain.Misconfigured, // no such schema
	"42": domain.Misconfigured, // syntax, access, missing tables and columns
	"53": domain.Unavailable,   // out of disk, memory, connections
	"54": domain.Invalid,       // a program limit: a row too large for an index
	"57": domain.Unavailable,   // operator intervention: shutdown, crash, starting up
	"58": domain.Unavailable,   // the system below: I/O
}

// textOf is the message, unless its kind quotes the row; the detail always may, and is left out.
func textOf(pg *pgconn.PgError) string {
	text := pg.Message
	if strings.HasPrefix(pg.Code, "22") {
		text = "the database cannot take a value of the row"
	}
	for _, at := range []struct{ name, value string }{{"table", pg.TableName}, {"column", pg.ColumnName}, {"constraint",
		pg.ConstraintName}} {
		if at.value != "" && !strings.Contains(text, at.value) {
			text += ", " + at.name + " " + at.value
		}
	}
	return text + " (SQLSTATE " + pg.Code + ")"
}
