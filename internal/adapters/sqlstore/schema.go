package sqlstore

import "github.com/docket-project/docket/internal/domain"

// KnownSchema refuses a schema that a newer docket has made: nobody knows what this one would do to it. what names the
// database or the file, current is its version, and newest the last one that this docket knows.
func KnownSchema(what string, current, newest int64) error {
	if current <= newest {
		return nil
	}
	return domain.Errorf(
		domain.Misconfigured, "%s has schema %d, of a newer docket, and this one knows %d: run the newer docket, or restore "+
			"a backup of before", what, current, newest,
	)
}
