package report

import (
	"regexp"
	"strings"
)

// How much of a reason is told on one line, in characters: as a whole, and of
// each value in it, so that what was expected is told beside a long actual one.
const (
	maxBrief = 300
	maxValue = 110
)

var (
	// address is where an object was in memory, which differs between runs.
	address = regexp.MustCompile(` \| 0x[0-9a-f]+`)
	// place is the directory before a source's path below the module.
	place = regexp.MustCompile(`/\S*/(suites|framework)/`)
	// onlyPlace is a line with a code location and nothing else.
	onlyPlace = regexp.MustCompile(`^\S+\.go:\d+$`)
	// advice is what Gomega says of values that it cuts.
	advice = regexp.MustCompile(`^(Gomega truncated this representation|Consider having the object provide|or adjust the parameters in Gomega's|Learn more here: https://onsi\.github\.io)`)
)

// brief is a reason on one line. Gomega says what was asked in lines that begin at
// the margin, and shows values in indented lines below: the first line alone is
// mostly "Expected".
func brief(reason string) string {
	var parts []string
	var value []string
	flush := func() {
		if len(value) > 0 {
			parts = append(parts, cut(strings.Join(value, " "), maxValue))
		}
		value = nil
	}
	object := false // the fields of an error, which its text has said
	for line := range strings.Lines(reason) {
		text := strings.TrimSpace(address.ReplaceAllString(line, ""))
		switch {
		case text == "" || onlyPlace.MatchString(text) || advice.MatchString(text):
		case line[0] != ' ' && line[0] != '\t':
			flush()
			object = false
			parts = append(parts, place.ReplaceAllString(text, "$1/"))
		case strings.HasPrefix(text, "{") && len(value) > 1:
			object = true
		case !object:
			value = append(value, text)
		}
	}
	flush()
	return cut(strings.Join(parts, " "), maxBrief)
}

// cut bounds a text to so many characters, and shows that it did.
func cut(s string, most int) string {
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return s
}
