package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/docket-project/docket/internal/domain"
)

// classify is the one place that turns SQLite's result codes (https://sqlite.org/rescode.html) into classes.
func classify(op string, err error) error {
	if err == nil {
		return nil
	}
	var known *domain.Error
	if errors.As(err, &known) {
		return err
	}
	e := &domain.Error{Class: domain.Unknown, Op: op, Err: err}
	var se *sqlite.Error
	switch {
	case errors.Is(err, context.Canceled):
		e.Class = domain.Canceled
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, sql.ErrConnDone):
		e.Class = domain.Unavailable
	case errors.As(err, &se):
		e.Class, e.Code = classOf(se), codeName(se.Code())
	}
	// SQLite's messages name tables, columns and constraints, never the contents of a row.
	e.Text = err.Error()
	return e
}

func classOf(se *sqlite.Error) domain.Class {
	switch se.Code() & 0xFF {
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED, lib.SQLITE_FULL, lib.SQLITE_IOERR, lib.SQLITE_NOMEM, lib.SQLITE_PROTOCOL:
		return domain.Unavailable
	case lib.SQLITE_INTERRUPT:
		return domain.Unavailable // a deadline; a cancellation is seen before
	case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB, lib.SQLITE_READONLY, lib.SQLITE_CANTOPEN, lib.SQLITE_PERM,
		lib.SQLITE_AUTH, lib.SQLITE_SCHEMA, lib.SQLITE_FORMAT, lib.SQLITE_MISUSE, lib.SQLITE_NOLFS:
		return domain.Misconfigured
	case lib.SQLITE_CONSTRAINT:
		// A raising trigger is somebody's rule about rows, which docket cannot read: not certainly for ever.
		if se.Code() == lib.SQLITE_CONSTRAINT_TRIGGER {
			return domain.Unknown
		}
		return domain.Invalid
	case lib.SQLITE_TOOBIG, lib.SQLITE_MISMATCH, lib.SQLITE_RANGE:
		return domain.Invalid
	case lib.SQLITE_ERROR:
		for _, missing := range []string{"no such table", "no such column", "has no column", "no such index"} {
			if strings.Contains(se.Error(), missing) {
				return domain.Misconfigured
			}
		}
	}
	return domain.Unknown
}

// codeName is SQLite's own name of a primary result code, such as SQLITE_FULL.
func codeName(code int) string {
	switch code {
	case lib.SQLITE_IOERR_FSYNC:
		return "SQLITE_IOERR_FSYNC"
	case lib.SQLITE_IOERR_DIR_FSYNC:
		return "SQLITE_IOERR_DIR_FSYNC"
	}
	text := sqlite.ErrorCodeString[code&0xFF]
	if i, j := strings.LastIndexByte(text, '('), strings.LastIndexByte(text, ')'); i >= 0 && j > i {
		return text[i+1 : j]
	}
	return text
}

// isFsync reports an fsync that failed: what was written before it may be gone although it can still be read.
func isFsync(err error) bool {
	var se *sqlite.Error
	return errors.As(err, &se) && (se.Code() == lib.SQLITE_IOERR_FSYNC || se.Code() == lib.SQLITE_IOERR_DIR_FSYNC)
}

// isDamage reports a file whose contents are not SQLite's any more.
func isDamage(err error) bool {
	var se *sqlite.Error
	if !errors.As(err, &se) {
		return false
	}
	code := se.Code() & 0xFF
	return code == lib.SQLITE_CORRUPT || code == lib.SQLITE_NOTADB
}
