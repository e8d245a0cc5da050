package sqlstore

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

const packable = `{"labels":{"app":"shop","env":"prod"},"path":"http/authz/allow","result":{"allow":false}}`

func dictionaryOf(text string) domain.Dictionary {
	return domain.NewDictionary("t", s2.MakeDict([]byte(text), nil).Bytes(), 0.5)
}

func TestPack(t *testing.T) {
	trained := NewDictionaries(slog.New(slog.DiscardHandler))
	trained.Learn([]domain.Dictionary{dictionaryOf(packable)})
	for name, event := range map[string][]byte{
		"empty": {}, "an object": []byte(packable), "random": []byte("\x00\x01zq\xff"),
		"long": bytes.Repeat([]byte(packable), 10_000), "NUL and surrogates": []byte("{\"a\":\"\\u0000\\ud800\"}"),
	} {
		t.Run(name, func(t *testing.T) {
			for _, d := range []*Dictionaries{trained, NewDictionaries(slog.New(slog.DiscardHandler))} {
				packed := d.Begin().Append([]byte("before"), "t", event)
				require.Equal(t, "before", string(packed[:6]))
				got, err := d.Unpack(packed[6:])
				require.NoError(t, err)
				assert.True(t, bytes.Equal(event, got))
				assert.LessOrEqual(t, len(packed)-6, len(event)+packedHead)
			}
		})
	}
}

func TestPackingTellsWhatItUsed(t *testing.T) {
	d := NewDictionaries(slog.New(slog.DiscardHandler))
	older, newer := dictionaryOf(packable), dictionaryOf(packable+" again")
	newer.MadeAt = older.MadeAt.Add(time.Hour)
	d.Learn([]domain.Dictionary{older, newer})
	p := d.Begin()
	assert.Empty(t, p.Used())
	p.Append(nil, "another tenant", []byte(packable))
	assert.Empty(t, p.Used(), "a tenant's dictionary is its own")
	packed := p.Append(nil, "t", []byte(packable))
	require.Len(t, p.Used(), 1)
	assert.Equal(t, newer.SHA256, p.Used()[0].SHA256)
	assert.Less(t, len(packed), 30)
}

func TestUnpackOfWhatIsDamaged(t *testing.T) {
	d := NewDictionaries(slog.New(slog.DiscardHandler))
	d.Learn([]domain.Dictionary{dictionaryOf(packable)})
	good := d.Begin().Append(nil, "t", []byte(packable))
	for name, c := range map[string]struct {
		packed []byte
		want   string
	}{
		"nothing":        {nil, "cut off"},
		"half a head":    {good[:3], "cut off"},
		"half a block":   {good[:len(good)-2], "corrupt"},
		"another codec":  {append([]byte{7}, good[1:]...), "codec 7"},
		"other name":     {append([]byte{1, 9, 9, 9, 9}, good[5:]...), "not in the table dictionaries"},
		"a bomb":         {[]byte{1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f}, "says that it has"},
		"no dictionary":  {append([]byte{1, 0, 0, 0, 0}, good[5:]...), "corrupt"},
		"an empty block": {[]byte{1, 0, 0, 0, 0}, "corrupt"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.Unpack(c.packed)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestADamagedDictionaryIsNotUsed(t *testing.T) {
	var said strings.Builder
	d := NewDictionaries(slog.New(slog.NewTextHandler(&said, nil)))
	bad := dictionaryOf(packable)
	bad.Bytes = append(bytes.Clone(bad.Bytes), 'x')
	d.Learn([]domain.Dictionary{bad})
	p := d.Begin()
	p.Append(nil, "t", []byte(packable))
	assert.Empty(t, p.Used())
	assert.Contains(t, said.String(), "restored from a backup")
	assert.Len(t, d.Known(), 1, "it is not read, and told of, again and again")
}

func TestAMissingDictionaryIsToldOfOnce(t *testing.T) {
	d := NewDictionaries(slog.New(slog.DiscardHandler))
	d.Learn([]domain.Dictionary{dictionaryOf(packable)})
	packed := d.Begin().Append(nil, "t", []byte(packable))
	var said strings.Builder
	other := NewDictionaries(slog.New(slog.NewTextHandler(&said, nil)))
	for range 3 {
		_, err := other.Unpack(packed)
		other.Missing(err)
	}
	other.Missing(nil)
	assert.Equal(t, 1, strings.Count(said.String(), "a dictionary is missing"))
}

func FuzzUnpack(f *testing.F) {
	d := NewDictionaries(slog.New(slog.DiscardHandler))
	d.Learn([]domain.Dictionary{dictionaryOf(packable)})
	f.Add(d.Begin().Append(nil, "t", []byte(packable)))
	f.Add(d.Begin().Append(nil, "", []byte(packable)))
	f.Add([]byte{1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, packed []byte) {
		event, err := d.Unpack(packed)
		if err == nil && len(event) > maxUnpacked {
			t.Fatal("longer than it may be")
		}
	})
}
