// columns aligns the columns of what it reads: `ps | columns`.
package main

import (
	"bufio"
	"os"
	"runtime"
)

var version = "dev"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "--version" {
		os.Stdout.WriteString("columns " + version + " " + runtime.GOOS + "/" + runtime.GOARCH + "\n")
		return
	}
	var lines []string
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		lines = append(lines, in.Text())
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for _, line := range align(lines) {
		out.WriteString(line + "\n")
	}
}
