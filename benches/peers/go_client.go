// Go's net/http as a client of `compare`: does the work of its arguments and says what it took, as JSON.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"
)

const urls = 4096

var (
	port        = flag.Int("port", 0, "")
	addresses   = flag.Int("addresses", 1, "")
	path        = flag.String("path", "/", "")
	requests    = flag.Int("requests", 0, "")
	concurrency = flag.Int("concurrency", 1, "")
	fresh       = flag.Bool("fresh", false, "")
	settle      = flag.Int("settle-ms", 0, "")
	dripping    = flag.Int("dripping", 0, "")
)

type measured struct {
	Requests   int     `json:"requests"`
	Errors     int     `json:"errors"`
	Error      *string `json:"error"`
	Bytes      int64   `json:"bytes"`
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpu_seconds"`
	RSSBefore  int     `json:"rss_before_kb"`
	RSSIdle    int     `json:"rss_idle_kb"`
	RSSPeak    int     `json:"rss_peak_kb"`
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`
	P999       float64 `json:"p999_ms"`
}

// What one worker has counted; nobody else looks before it has ended.
type counted struct {
	latencies []time.Duration
	bytes     int64
	errors    []error
}

func main() {
	flag.Parse()
	if *dripping > 0 {
		fail(fmt.Errorf("it takes part in plain work only"))
	}
	targets := make([]string, urls)
	for n := range targets {
		targets[n] = fmt.Sprintf("http://127.0.0.%d:%d%s", 1+n%*addresses, *port, *path)
		if strings.HasSuffix(*path, "/") {
			targets[n] += fmt.Sprint(n)
		}
	}
	// By default two connections to a host are kept.
	client := &http.Client{Transport: &http.Transport{
		MaxIdleConns:        0,
		MaxIdleConnsPerHost: *concurrency,
		DisableKeepAlives:   *fresh,
		DisableCompression:  true,
	}}

	next := make(chan int, *concurrency)
	workers := *concurrency
	if *requests < workers {
		workers = *requests
	}
	each := make([]counted, workers)
	said := measured{RSSBefore: memory("VmRSS:")}
	fmt.Println("begin")
	since, cpu := time.Now(), cpuTime()
	go func() {
		for n := 0; n < *requests; n++ {
			next <- n
		}
		close(next)
	}()
	var running sync.WaitGroup
	for n := range each {
		running.Add(1)
		go func(own *counted) {
			defer running.Done()
			for n := range next {
				own.fetch(client, targets[n%urls])
			}
		}(&each[n])
	}
	running.Wait()
	said.Seconds, said.CPUSeconds = time.Since(since).Seconds(), (cpuTime() - cpu).Seconds()

	var latencies []time.Duration
	for _, own := range each {
		latencies = append(latencies, own.latencies...)
		said.Bytes += own.bytes
		said.Errors += len(own.errors)
		if len(own.errors) > 0 && said.Error == nil {
			why := own.errors[0].Error()
			said.Error = &why
		}
	}
	sort.Slice(latencies, func(a, b int) bool { return latencies[a] < latencies[b] })
	at := func(part float64) float64 {
		if len(latencies) == 0 {
			return 0
		}
		place := int(float64(len(latencies)) * part)
		if place == len(latencies) {
			place--
		}
		return latencies[place].Seconds() * 1e3
	}
	said.Requests = len(latencies)
	said.P50, said.P99, said.P999 = at(0.5), at(0.99), at(0.999)
	time.Sleep(time.Duration(*settle) * time.Millisecond)
	said.RSSIdle, said.RSSPeak = memory("VmRSS:"), memory("VmHWM:")
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		fail(err)
	}
}

func (own *counted) fetch(client *http.Client, url string) {
	since := time.Now()
	length, err := get(client, url)
	if err != nil {
		own.errors = append(own.errors, err)
		return
	}
	own.latencies = append(own.latencies, time.Since(since))
	own.bytes += int64(length)
}

// The body is kept until its last byte, as the others do.
func get(client *http.Client, url string) (int, error) {
	response, err := client.Get(url)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return len(body), err
}

func memory(name string) int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		fail(err)
	}
	for _, line := range strings.Split(string(status), "\n") {
		if strings.HasPrefix(line, name) {
			var kb int
			if _, err := fmt.Sscanf(line[len(name):], "%d", &kb); err != nil {
				fail(err)
			}
			return kb
		}
	}
	fail(fmt.Errorf("no line %s", name))
	return 0
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		fail(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
