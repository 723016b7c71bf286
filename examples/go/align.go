package main

import (
	"strings"
	"unicode/utf8"
)

// align pads the words of each line to the widest word of their column.
func align(lines []string) []string {
	var widths []int
	for _, line := range lines {
		for column, word := range strings.Fields(line) {
			if column == len(widths) {
				widths = append(widths, 0)
			}
			widths[column] = max(widths[column], utf8.RuneCountInString(word))
		}
	}
	aligned := make([]string, len(lines))
	for number, line := range lines {
		var text strings.Builder
		for column, word := range strings.Fields(line) {
			text.WriteString(word)
			text.WriteString(strings.Repeat(" ", widths[column]-utf8.RuneCountInString(word)+1))
		}
		aligned[number] = strings.TrimRight(text.String(), " ")
	}
	return aligned
}
