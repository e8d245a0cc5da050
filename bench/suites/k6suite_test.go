package suites

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestThousandsAreParted(t *testing.T) {
	for v, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000"} {
		assert.Equal(t, want, n(v))
	}
}
