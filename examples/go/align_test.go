package main

import (
	"slices"
	"testing"
)

func TestColumnsStartBelowEachOther(t *testing.T) {
	got := align([]string{"a long b", "ä c"})
	if want := []string{"a long b", "ä c"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestShortWordsArePadded(t *testing.T) {
	got := align([]string{"PID COMMAND", "17 sh", "", "104512 x"})
	want := []string{"PID    COMMAND", "17     sh", "", "104512 x"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
