package search

import (
	"github.com/alecthomas/participle/v2"
	"github.com/alecthomas/participle/v2/lexer"
)

// What words are made of. A word may have quoted pieces: "a b"* is one.
const (
	quoted = `"(?:[^"\\]|\\.)*"`
	word   = `(?:[^\s()"]|` + quoted + `)`
	inName = `(?:[^\s()":<>=]|` + quoted + `)`
)

// language cuts a query up. The first operator ends the name of a field, and what stands right behind it is the value,
// whatever it has in it. In parentheses there, every word is a value.
var language = lexer.MustStateful(lexer.Rules{
	"Root": {
		{Name: "space", Pattern: `\s+`},
		{
			Name:    "Field",
			Pattern: `(?s:(?:[^\s()":<>=\-]|` + quoted + `)` + inName + `*(?::|>=|<=|>|<))`,
			Action:  lexer.Push("Value"),
		},
		{Name: "Minus", Pattern: `-`},
		{Name: "Open", Pattern: `\(`},
		{Name: "Close", Pattern: `\)`},
		{Name: "Text", Pattern: `(?s:` + word + `+)`},
	},
	"Value": {
		{Name: "ValuesOpen", Pattern: `\(`, Action: lexer.Push("Values")},
		{Name: "Value", Pattern: `(?s:` + word + `+)`, Action: lexer.Pop()},
		lexer.Return(),
	},
	"Values": {
		{Name: "space", Pattern: `\s+`},
		{Name: "ValuesOpen", Pattern: `\(`, Action: lexer.Push("Values")},
		{Name: "ValuesClose", Pattern: `\)`, Action: lexer.Pop()},
		{Name: "Item", Pattern: `(?s:` + word + `+)`},
	},
})

var parser = participle.MustBuild[query](
	participle.Lexer(language),
	participle.Elide("space"),
	participle.UseLookahead(2),
)

// query is a whole query, which may be empty.
type query struct {
	Any *anyOf `parser:"@@?"`
}

// anyOf, allOf and negated are OR, AND and NOT, the loosest first.
type anyOf struct {
	Args []*allOf `parser:"@@ ('OR' @@)*"`
}

type allOf struct {
	Args []*negated `parser:"@@ ('AND'? @@)*"`
}

type negated struct {
	Not  []string `parser:"@('NOT' | Minus)*"`
	Term *term    `parser:"@@"`
}

// term is a group in parentheses, a comparison with a field, or a text.
type term struct {
	Pos    lexer.Position
	Group  *anyOf     `parser:"  Open @@ Close"`
	Field  string     `parser:"| ( @Field"`
	Value  *value     `parser:"    ( @@"`
	Values *anyValues `parser:"    | ValuesOpen @@ ValuesClose ) )"`
	Text   string     `parser:"| (?! 'OR' | 'AND' | 'NOT') @Text"`
}

// value is what a field is compared with.
type value struct {
	Pos  lexer.Position
	Text string `parser:"@Value"`
}

// anyValues, allValues and negatedValue are the same between the values of one field.
type anyValues struct {
	Args []*allValues `parser:"@@ ('OR' @@)*"`
}

type allValues struct {
	Args []*negatedValue `parser:"@@ ('AND'? @@)*"`
}

type negatedValue struct {
	Pos   lexer.Position
	Not   []string   `parser:"@'NOT'*"`
	Group *anyValues `parser:"(  ValuesOpen @@ ValuesClose"`
	Item  *item      `parser:"|  @@ )"`
}

// item is one of several values.
type item struct {
	Pos  lexer.Position
	Text string `parser:"(?! 'OR' | 'AND' | 'NOT') @Item"`
}
