package auth

import (
	"os"
	"time"
)

// Stamp tells one content of a file from another; that of a file which is not there is zero.
type Stamp struct {
	changed time.Time
	size    int64
}

// Stamps are those of two files that belong together; "" is no file.
func Stamps(one, other string) (out [2]Stamp) {
	for i, file := range []string{one, other} {
		if info, err := os.Stat(file); err == nil {
			out[i] = Stamp{info.ModTime(), info.Size()}
		}
	}
	return out
}
