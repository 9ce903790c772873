package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// bench is a sink, and the requests of a client to it.
type bench struct {
	t   *testing.T
	url string
}

func start(t *testing.T) bench {
	server := httptest.NewServer(&store{objects: map[string]*object{}, uploads: map[string]map[int]*object{}})
	t.Cleanup(server.Close)
	return bench{t, server.URL}
}

// asks returns status, headers and body of an answer; headers are given as "name: value".
func (b bench) asks(method, path, body string, headers ...string) (int, http.Header, string) {
	b.t.Helper()
	request, err := http.NewRequest(method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return response.StatusCode, response.Header, string(said)
}

func (b bench) expects(what string, got, wanted any) {
	b.t.Helper()
	if got != wanted {
		b.t.Errorf("%s: got %v, wanted %v", what, got, wanted)
	}
}

func (b bench) keeps() {
	b.t.Helper()
	status, _, _ := b.asks("POST", "/?sink&latency=0ms&rate=0&keep=true", "")
	b.expects("configured", status, 200)
}

func inside(text, name string) string {
	_, rest, _ := strings.Cut(text, "<"+name+">")
	value, _, _ := strings.Cut(rest, "</"+name+">")
	return value
}

func TestAnObjectIsWhatWasPut(t *testing.T) {
	b := start(t)
	b.keeps()
	status, _, _ := b.asks("PUT", "/bucket/a/b", "hello world", checksum+": abc=")
	b.expects("put", status, 200)
	status, headers, _ := b.asks("HEAD", "/bucket/a/b", "")
	b.expects("head", status, 200)
	b.expects("size", headers.Get("Content-Length"), "11")
	b.expects("checksum", headers.Get(checksum), "abc=")
	b.expects("type", headers.Get("X-Amz-Checksum-Type"), "FULL_OBJECT")
	_, _, body := b.asks("GET", "/bucket/a/b", "")
	b.expects("bytes", body, "hello world")
	status, headers, body = b.asks("GET", "/bucket/a/b", "", "Range: bytes=6-8")
	b.expects("range", status, 206)
	b.expects("its bytes", body, "wor")
	b.expects("its checksum", headers.Get(checksum), "")
	status, _, _ = b.asks("GET", "/bucket/none", "")
	b.expects("no such key", status, 404)
	status, _, _ = b.asks("DELETE", "/bucket/a/b", "")
	b.expects("an unknown call", status, 501)
}

func TestAWriteThatForbidsItOverwritesNothing(t *testing.T) {
	b := start(t)
	b.keeps()
	b.asks("PUT", "/bucket/a", "one")
	status, _, said := b.asks("PUT", "/bucket/a", "two", "If-None-Match: *")
	b.expects("refused", status, 412)
	b.expects("code", inside(said, "Code"), "PreconditionFailed")
	_, _, body := b.asks("GET", "/bucket/a", "")
	b.expects("bytes", body, "one")
	b.asks("PUT", "/bucket/a", "two")
	_, _, body = b.asks("GET", "/bucket/a", "")
	b.expects("overwritten otherwise", body, "two")
}

func TestPartsBecomeOneObjectInTheirOrder(t *testing.T) {
	b := start(t)
	b.keeps()
	_, _, said := b.asks("POST", "/bucket/large?uploads", "")
	upload := inside(said, "UploadId")
	for _, part := range []int{2, 1, 3} {
		status, _, _ := b.asks("PUT", fmt.Sprintf("/bucket/large?uploadId=%s&partNumber=%d", upload, part), strings.Repeat(fmt.Sprint(part), 4))
		b.expects("part", status, 200)
	}
	status, _, _ := b.asks("HEAD", "/bucket/large", "")
	b.expects("not there before it is complete", status, 404)
	status, _, said = b.asks("POST", "/bucket/large?uploadId="+upload, "", checksum+": whole=")
	b.expects("complete", status, 200)
	b.expects("checksum", inside(said, "ChecksumCRC64NVME"), "whole=")
	_, _, body := b.asks("GET", "/bucket/large", "")
	b.expects("bytes", body, "111122223333")
	_, _, body = b.asks("GET", "/bucket/large", "", "Range: bytes=3-8")
	b.expects("over parts", body, "122223")
	status, _, said = b.asks("POST", "/bucket/large?uploadId="+upload, "")
	b.expects("twice", status, 404)
	b.expects("code", inside(said, "Code"), "NoSuchUpload")
	status, _, _ = b.asks("PUT", "/bucket/large?uploadId="+upload+"&partNumber=1", "x")
	b.expects("a part of no upload", status, 404)
}

func TestAnUploadThatLacksAPartIsRefused(t *testing.T) {
	b := start(t)
	_, _, said := b.asks("POST", "/bucket/large?uploads", "")
	upload := inside(said, "UploadId")
	b.asks("PUT", "/bucket/large?uploadId="+upload+"&partNumber=2", "x")
	status, _, said := b.asks("POST", "/bucket/large?uploadId="+upload, "")
	b.expects("refused", status, 400)
	b.expects("code", inside(said, "Code"), "InvalidPart")
}

func TestAListHasPages(t *testing.T) {
	b := start(t)
	for number := range pageKeys + 5 {
		b.asks("PUT", fmt.Sprintf("/bucket/list/%04d", number), "x")
	}
	b.asks("PUT", "/bucket/other", "x")
	_, _, said := b.asks("GET", "/bucket?list-type=2&prefix=list/", "")
	b.expects("first page", strings.Count(said, "<Contents>"), pageKeys)
	b.expects("truncated", inside(said, "IsTruncated"), "true")
	_, _, said = b.asks("GET", "/bucket?list-type=2&prefix=list/&continuation-token="+inside(said, "NextContinuationToken"), "")
	b.expects("last page", strings.Count(said, "<Contents>"), 5)
	b.expects("its first key", inside(said, "Key"), "list/1000")
	b.expects("not truncated", inside(said, "IsTruncated"), "false")
}

func TestBytesAreKeptOnlyWhereAsked(t *testing.T) {
	b := start(t)
	b.asks("PUT", "/bucket/a", "bytes")
	status, headers, _ := b.asks("HEAD", "/bucket/a", "")
	b.expects("known", status, 200)
	b.expects("with its size", headers.Get("Content-Length"), "5")
	status, _, said := b.asks("GET", "/bucket/a", "")
	b.expects("not kept", status, 410)
	b.expects("code", inside(said, "Code"), "BytesNotKept")
	b.keeps()
	status, _, _ = b.asks("HEAD", "/bucket/a", "")
	b.expects("forgotten by the next measurement", status, 404)
	b.asks("PUT", "/bucket/a", "bytes")
	b.asks("POST", "/?sink&latency=0ms&rate=0&stay=true", "")
	_, _, body := b.asks("GET", "/bucket/a", "")
	b.expects("that stays where asked", body, "bytes")
}

func TestTheSizeOfAStreamedUploadIsTheDecodedOne(t *testing.T) {
	b := start(t)
	b.asks("PUT", "/bucket/a", "5;chunk-signature=x\r\nhello\r\n0;chunk-signature=y\r\n\r\n", "X-Amz-Decoded-Content-Length: 5")
	_, headers, _ := b.asks("HEAD", "/bucket/a", "")
	b.expects("size", headers.Get("Content-Length"), "5")
}

func TestTheNetworkTakesItsTime(t *testing.T) {
	b := start(t)
	status, _, _ := b.asks("POST", "/?sink&latency=30ms&rate=1", "")
	b.expects("configured", status, 200)
	began := time.Now()
	b.asks("PUT", "/bucket/a", string(bytes.Repeat([]byte("x"), 50_000)))
	if took := time.Since(began); took < 75*time.Millisecond {
		t.Errorf("50 kB at 1 MB/s after 30 ms took %v", took)
	}
	status, _, _ = b.asks("POST", "/?sink&latency=soon&rate=1", "")
	b.expects("no duration", status, 400)
}
