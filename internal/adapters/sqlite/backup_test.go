package sqlite

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// verified is what a verification of a directory finds.
func verified(t *testing.T, path string) []string {
	t.Helper()
	dir := openDir(t, path)
	defer func() { require.NoError(t, dir.Close()) }()
	o := logOptions(t)
	o.Renamed = map[string]string{"g": "g"}
	found, err := Verify(t.Context(), dir, o)
	require.NoError(t, err)
	return found
}

// TestBackup copies while docket runs; docket goes on with the copy as if it were the original of that moment.
func TestBackup(t *testing.T) {
	d := &couple{t: t, path: t.TempDir()}
	d.open()
	d.take(20)
	d.save()
	d.take(7) // these wait
	rows := d.rows()
	copied := filepath.Join(t.TempDir(), "backup")
	files, err := Backup(t.Context(), d.path, copied)
	require.NoError(t, err)
	require.Equal(t, []string{logFile, storeFile}, files)
	d.take(50)
	d.save()
	d.close()
	require.Empty(t, verified(t, copied))
	require.Empty(t, verified(t, d.path))
	for _, path := range []string{copied, d.path} {
		entries, err := os.ReadDir(path)
		require.NoError(t, err)
		for _, e := range entries {
			info, err := e.Info()
			require.NoError(t, err)
			require.Equal(t, os.FileMode(filePerm), info.Mode().Perm(), "%s/%s", path, e.Name())
		}
	}
	_, err = Backup(t.Context(), d.path, copied)
	require.ErrorContains(t, err, "not empty")
	_, err = Backup(t.Context(), t.TempDir(), filepath.Join(t.TempDir(), "nothing"))
	require.ErrorContains(t, err, "nothing to copy")

	restored := &couple{t: t, path: copied, next: 1000}
	restored.open()
	require.Zero(t, restored.lost.Load())
	require.Equal(t, rows, restored.rows())
	restored.save()
	require.Greater(t, restored.rows(), rows+7, "what waited is saved")
	restored.close()
	require.Zero(t, restored.lost.Load())
}

// TestVerifyFindsDamage of each kind, and changes nothing.
func TestVerifyFindsDamage(t *testing.T) {
	for _, c := range []struct {
		name, file, statement, says string
	}{
		{"an event that was changed", storeFile, `UPDATE decisions_out_of_window SET packed = 0, event = '{}' WHERE rowid = 3`,
			"is not the one that was stored"},
		{"an event that was cut off", storeFile, `UPDATE decisions_out_of_window SET event = x'01' WHERE rowid = 3`,
			"cannot be read"},
		{"a record that was changed", logFile, `UPDATE records SET value = 'x' WHERE id = (SELECT max(id) FROM records)`,
			"checksum does not fit"},
		{"a record that is missing", logFile, `DELETE FROM records WHERE id = (SELECT max(id) FROM records)`, "missing"},
		{"a store that is older", storeFile, `UPDATE log_marks SET next_offset = 3`, "not of one time"},
		{"a log of another store", logFile, `UPDATE identity SET id = 'another'`, "not of one time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &couple{t: t, path: t.TempDir()}
			d.open()
			d.take(20)
			d.save()
			d.save()
			d.take(3)
			d.close()
			require.Empty(t, verified(t, d.path))
			dir := openDir(t, d.path)
			db, err := dir.open(c.file, 0)
			require.NoError(t, err)
			_, err = db.ExecContext(t.Context(), c.statement)
			require.NoError(t, err)
			require.NoError(t, db.Close())
			require.NoError(t, dir.Close())
			for range 2 {
				found := verified(t, d.path)
				require.Len(t, found, 1)
				require.Contains(t, found[0], c.says)
			}
		})
	}
}
