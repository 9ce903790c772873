// A sink for uploads and a source for downloads: the S3 calls of the bench's clients over TLS, without authentication.
//
//	sink -listen 127.0.0.1:0 -cert tls.crt -key tls.key
//
// The first line of its output is its address. It checks no bytes, so that the client is what a bench measures: the checksum of an
// object is the one that its writer sent. Between two measurements, POST /?sink forgets all objects unless stay=true, and sets
// latency=40ms (a wait before each request), rate=90 (MB/s of each connection, 0: any) and keep=true (keep the bytes of objects).
package main

import (
	"crypto/tls"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	checksum  = "X-Amz-Checksum-Crc64nvme"
	pageKeys  = 1000
	timeStyle = "2006-01-02T15:04:05.000Z"
)

type object struct {
	size     int64
	checksum string
	etag     string
	at       time.Time
	pieces   [][]byte
}

type store struct {
	mutex   sync.RWMutex
	objects map[string]*object
	uploads map[string]map[int]*object
	begun   int
	latency time.Duration
	rate    float64
	keep    bool
}

// paced slows a body down to a rate, in bytes a second.
type paced struct {
	io.Reader
	rate  float64
	began time.Time
	moved int64
}

func (p *paced) Read(into []byte) (int, error) {
	n, err := p.Reader.Read(into)
	p.moved += int64(n)
	if p.rate > 0 {
		due := time.Duration(float64(p.moved) / p.rate * float64(time.Second))
		if ahead := due - time.Since(p.began); ahead > time.Millisecond {
			time.Sleep(ahead)
		}
	}
	return n, err
}

func (s *store) configure(r *http.Request) error {
	query := r.URL.Query()
	latency, err := time.ParseDuration(query.Get("latency"))
	if err != nil {
		return err
	}
	rate, err := strconv.ParseFloat(query.Get("rate"), 64)
	if err != nil {
		return err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.latency, s.rate, s.keep = latency, rate*1e6, query.Get("keep") == "true"
	if query.Get("stay") != "true" {
		s.objects, s.uploads = map[string]*object{}, map[string]map[int]*object{}
	}
	return nil
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if query.Has("sink") {
		if err := s.configure(r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
		return
	}
	s.mutex.RLock()
	latency, rate, keep := s.latency, s.rate, s.keep
	s.mutex.RUnlock()
	time.Sleep(latency)
	_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch upload := query.Get("uploadId"); {
	case r.Method == http.MethodPut && upload != "":
		s.putPart(w, r, upload, query.Get("partNumber"), rate, keep)
	case r.Method == http.MethodPut && key != "":
		s.put(w, r, key, rate, keep)
	case r.Method == http.MethodPost && upload != "":
		s.complete(w, r, key, upload)
	case r.Method == http.MethodPost && query.Has("uploads"):
		s.begin(w, key)
	case r.Method == http.MethodGet && key == "" && query.Has("uploads"):
		answer(w, "ListMultipartUploadsResult", "<IsTruncated>false</IsTruncated>")
	case r.Method == http.MethodGet && key == "":
		// The second version of the call has a token, the first a marker: both are the last key of the page before.
		s.list(w, query.Get("prefix"), query.Get("continuation-token")+query.Get("marker"))
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		s.get(w, r, key, rate)
	default:
		refuse(w, http.StatusNotImplemented, "NotImplemented")
	}
}

// receive reads a body, plain or in the chunks of a streamed upload, whose decoded length is in a header.
func receive(r *http.Request, rate float64, keep bool) (*object, error) {
	body := &paced{Reader: r.Body, rate: rate, began: time.Now()}
	made := &object{size: r.ContentLength, checksum: r.Header.Get(checksum), at: time.Now()}
	if decoded := r.Header.Get("X-Amz-Decoded-Content-Length"); decoded != "" {
		size, err := strconv.ParseInt(decoded, 10, 64)
		if err != nil {
			return nil, err
		}
		made.size = size
	}
	made.etag = fmt.Sprintf(`"%032x"`, made.size)
	if keep {
		bytes := make([]byte, made.size)
		if _, err := io.ReadFull(body, bytes); err != nil {
			return nil, err
		}
		made.pieces = [][]byte{bytes}
	}
	_, err := io.Copy(io.Discard, body)
	return made, err
}

func (s *store) put(w http.ResponseWriter, r *http.Request, key string, rate float64, keep bool) {
	made, err := receive(r, rate, keep)
	if err != nil {
		refuse(w, http.StatusBadRequest, "IncompleteBody")
		return
	}
	if !s.add(r, key, made) {
		refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	}
	describe(w, made)
}

// add keeps a new object, unless its key is taken and the writer forbids that.
func (s *store) add(r *http.Request, key string, made *object) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if _, there := s.objects[key]; there && r.Header.Get("If-None-Match") == "*" {
		return false
	}
	s.objects[key] = made
	return true
}

func (s *store) begin(w http.ResponseWriter, key string) {
	s.mutex.Lock()
	s.begun++
	id := strconv.Itoa(s.begun)
	s.uploads[id] = map[int]*object{}
	s.mutex.Unlock()
	answer(w, "InitiateMultipartUploadResult", tag("Key", key)+tag("UploadId", id))
}

func (s *store) putPart(w http.ResponseWriter, r *http.Request, upload, part string, rate float64, keep bool) {
	number, err := strconv.Atoi(part)
	if err != nil {
		refuse(w, http.StatusBadRequest, "InvalidArgument")
		return
	}
	made, err := receive(r, rate, keep)
	if err != nil {
		refuse(w, http.StatusBadRequest, "IncompleteBody")
		return
	}
	s.mutex.Lock()
	parts, there := s.uploads[upload]
	if there {
		parts[number] = made
	}
	s.mutex.Unlock()
	if !there {
		refuse(w, http.StatusNotFound, "NoSuchUpload")
		return
	}
	describe(w, made)
}

func (s *store) complete(w http.ResponseWriter, r *http.Request, key, upload string) {
	io.Copy(io.Discard, r.Body)
	s.mutex.Lock()
	parts, there := s.uploads[upload]
	delete(s.uploads, upload)
	s.mutex.Unlock()
	if !there {
		refuse(w, http.StatusNotFound, "NoSuchUpload")
		return
	}
	made := &object{checksum: r.Header.Get(checksum), at: time.Now()}
	for number := 1; number <= len(parts); number++ {
		part, there := parts[number]
		if !there {
			refuse(w, http.StatusBadRequest, "InvalidPart")
			return
		}
		made.size += part.size
		made.pieces = append(made.pieces, part.pieces...)
	}
	made.etag = fmt.Sprintf(`"%032x-%d"`, made.size, len(parts))
	if !s.add(r, key, made) {
		refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	}
	said := tag("Key", key) + tag("ETag", made.etag)
	if made.checksum != "" {
		said += tag("ChecksumCRC64NVME", made.checksum)
	}
	answer(w, "CompleteMultipartUploadResult", said)
}

func (s *store) list(w http.ResponseWriter, prefix, after string) {
	s.mutex.RLock()
	defer s.mutex.RUnlock()
	var keys []string
	for key := range s.objects {
		if strings.HasPrefix(key, prefix) && key > after {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	var said strings.Builder
	if len(keys) > pageKeys {
		keys = keys[:pageKeys]
		said.WriteString("<IsTruncated>true</IsTruncated>" + tag("NextContinuationToken", keys[pageKeys-1]) + tag("NextMarker", keys[pageKeys-1]))
	} else {
		said.WriteString("<IsTruncated>false</IsTruncated>")
	}
	for _, key := range keys {
		one := s.objects[key]
		said.WriteString("<Contents>" + tag("Key", key) + tag("LastModified", one.at.UTC().Format(timeStyle)) + tag("ETag", one.etag) +
			tag("Size", strconv.FormatInt(one.size, 10)) + "<StorageClass>STANDARD</StorageClass></Contents>")
	}
	answer(w, "ListBucketResult", said.String())
}

func (s *store) get(w http.ResponseWriter, r *http.Request, key string, rate float64) {
	s.mutex.RLock()
	one, there := s.objects[key]
	s.mutex.RUnlock()
	if !there {
		refuse(w, http.StatusNotFound, "NoSuchKey")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	describe(w, one)
	if r.Method == http.MethodHead {
		w.Header().Set("Last-Modified", one.at.UTC().Format(http.TimeFormat))
		w.Header().Set("Accept-Ranges", "bytes")
		w.Header().Set("Content-Length", strconv.FormatInt(one.size, 10))
		return
	}
	if one.size > 0 && len(one.pieces) == 0 {
		w.Header().Del("ETag")
		refuse(w, http.StatusGone, "BytesNotKept")
		return
	}
	// ServeContent knows ranges; it takes no checksum of a range for one of the object.
	if r.Header.Get("Range") != "" {
		w.Header().Del(checksum)
	}
	http.ServeContent(w, r, "", one.at, &reader{object: one, paced: paced{rate: rate, began: time.Now()}})
}

// reader reads an object's pieces at the rate of a connection.
type reader struct {
	*object
	paced
	at int64
}

func (r *reader) Seek(offset int64, whence int) (int64, error) {
	r.at = offset + map[int]int64{io.SeekStart: 0, io.SeekCurrent: r.at, io.SeekEnd: r.size}[whence]
	return r.at, nil
}

func (r *reader) Read(into []byte) (int, error) {
	r.paced.Reader = readerFunc(func(into []byte) (int, error) {
		at := r.at
		for _, piece := range r.pieces {
			if at < int64(len(piece)) {
				n := copy(into, piece[at:])
				r.at += int64(n)
				return n, nil
			}
			at -= int64(len(piece))
		}
		return 0, io.EOF
	})
	return r.paced.Read(into)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(into []byte) (int, error) { return f(into) }

func describe(w http.ResponseWriter, one *object) {
	w.Header().Set("ETag", one.etag)
	if one.checksum != "" {
		w.Header().Set(checksum, one.checksum)
		w.Header().Set("X-Amz-Checksum-Type", "FULL_OBJECT")
	}
}

func tag(name, value string) string {
	var escaped strings.Builder
	xml.EscapeText(&escaped, []byte(value))
	return "<" + name + ">" + escaped.String() + "</" + name + ">"
}

func answer(w http.ResponseWriter, root, inner string) {
	w.Header().Set("Content-Type", "application/xml")
	fmt.Fprintf(w, `%s<%s xmlns="http://s3.amazonaws.com/doc/2006-03-01/">%s</%s>`, xml.Header, root, inner, root)
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "%s<Error>%s</Error>", xml.Header, tag("Code", code))
}

func main() {
	address := flag.String("listen", "127.0.0.1:0", "address and port; port 0: a free one")
	cert := flag.String("cert", "", "certificate, PEM")
	key := flag.String("key", "", "its key, PEM")
	flag.Parse()
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	server := &http.Server{
		Handler:      &store{objects: map[string]*object{}, uploads: map[string]map[int]*object{}},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1, which S3 speaks
		ErrorLog:     log.New(io.Discard, "", 0),
	}
	log.Fatal(server.ServeTLS(listener, *cert, *key))
}
