package domain

import "fmt"

// Message is what a use case has to say to a person: a code, and what belongs into the sentence. The API and the CLI
// word it. The zero Message says nothing.
type Message struct {
	Code string
	Args Args
}

// Args are the arguments of a Message: texts, numbers (int64 or float64) and times as RFC 3339.
type Args map[string]any

// Say makes a Message.
func Say(code string, args Args) Message { return Message{Code: code, Args: args} }

// Text is an argument as text; "" where there is none.
func (a Args) Text(name string) string {
	if v, ok := a[name]; ok {
		return fmt.Sprint(v)
	}
	return ""
}

// Share is an argument as a fraction; 0 where there is none. A whole one may have become an integer on its way.
func (a Args) Share(name string) float64 {
	if v, ok := a[name].(float64); ok {
		return v
	}
	return float64(a.Count(name))
}

// Count is an argument as a number; 0 where there is none.
func (a Args) Count(name string) int64 {
	switch v := a[name].(type) {
	case int64:
		return v
	case int:
		return int64(v)
	case float64:
		return int64(v)
	default:
		return 0
	}
}

// NothingMatches is the code of a job whose filter chooses nothing, also in other states.
const NothingMatches = "nothing_matches"
