package initdata

import (
	"fmt"

	"github.com/BurntSushi/toml"
)

// MaxNesting is how deep tables, arrays and dotted keys may lie in each other. Init-data needs two levels. The TOML
// library recurses once per level without a bound, and a Go program does not survive the end of its stack: four
// million brackets, which gzip packs into five thousand characters of annotation, would end it.
const MaxNesting = 32

// NestingError says that a document nests deeper than [MaxNesting].
type NestingError struct {
	Line int // from 1
}

func (e *NestingError) Error() string {
	return fmt.Sprintf("line %d: tables, arrays or dotted keys lie more than %d deep; init-data is a flat [data] table of strings", e.Line, MaxNesting)
}

// unmarshal is toml.Unmarshal for text that anybody may have written.
func unmarshal(raw []byte, into any) error {
	if err := CheckNesting(raw); err != nil {
		return err
	}
	return toml.Unmarshal(raw, into)
}

// CheckNesting refuses TOML that nests deeper than [MaxNesting] with a [*NestingError], before a parser sees it. It is
// for documents out of init-data's files too, such as an aa.toml. It judges nothing else: text that is not TOML passes
// if it is flat up to where a parser stops.
func CheckNesting(raw []byte) error {
	s := nestingScanner{line: 1}
	for at := 0; at < len(raw); {
		switch c := raw[at]; {
		case c == '#':
			at = s.skipComment(raw, at)
			continue
		case c == '"' || c == '\'':
			at = s.skipString(raw, at)
			continue
		default:
			s.step(c)
		}
		if s.deep() {
			return &NestingError{s.line}
		}
		at++
	}
	return nil
}

// nestingScanner knows of TOML what opens and closes a level, and what hides such characters.
type nestingScanner struct {
	line   int
	header int   // dots in the table header that keys are below
	dots   int   // dots since the key or value began
	open   []int // per open bracket, the dots in the key before it
	path   int   // sum of open, plus its length
	inHead bool  // between the brackets of a table header
	inLine bool  // something other than blanks is on this line
}

func (s *nestingScanner) step(c byte) {
	switch c {
	case '\n':
		s.line++
		s.inLine, s.inHead = false, false
		if len(s.open) == 0 {
			s.dots = 0
		}
		return
	case ' ', '\t', '\r':
		return
	case '.':
		s.dots++
	case '[', '{':
		s.bracket(c)
	case ']', '}':
		if s.inHead {
			s.header = max(s.header, s.dots) // max: an array of tables has two brackets
		}
		if n := len(s.open); n > 0 {
			s.path -= s.open[n-1] + 1
			s.open = s.open[:n-1]
		}
		s.dots = 0
	case ',':
		s.dots = 0
	}
	s.inLine = true
}

func (s *nestingScanner) bracket(c byte) {
	if c == '[' && len(s.open) == 0 && !s.inLine {
		s.inHead, s.header = true, 0 // also for the first of two brackets
	}
	s.open = append(s.open, s.dots)
	s.path += s.dots + 1
	s.dots = 0
}

func (s *nestingScanner) deep() bool { return s.header+s.path+s.dots > MaxNesting }

func (s *nestingScanner) skipComment(raw []byte, at int) int {
	for at < len(raw) && raw[at] != '\n' {
		at++
	}
	return at
}

// skipString returns where the string that begins at at has ended. A string on one line also ends with the line: no
// parser reads on from there.
func (s *nestingScanner) skipString(raw []byte, at int) int {
	s.inLine = true
	quote := raw[at]
	long := at+2 < len(raw) && raw[at+1] == quote && raw[at+2] == quote
	if long {
		at += 2
	}
	for at++; at < len(raw); at++ {
		switch c := raw[at]; {
		case c == '\\' && quote == '"':
			at++
			if at < len(raw) && raw[at] == '\n' {
				s.line++
			}
		case c == '\n' && !long:
			return at
		case c == '\n':
			s.line++
		case c == quote && !long:
			return at + 1
		case c == quote && at+2 < len(raw) && raw[at+1] == quote && raw[at+2] == quote:
			return endOfQuotes(raw, at, quote)
		}
	}
	return at
}

// endOfQuotes returns where the quotes at at end: a long string may itself end with one or two quotes.
func endOfQuotes(raw []byte, at int, quote byte) int {
	for n := 0; at < len(raw) && raw[at] == quote && n < 5; n++ {
		at++
	}
	return at
}
