package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// processor lets everything pass unchanged. It counts what it was shown, so that the comparison can tell whether each
// call went through all of its phases.
type processor struct {
	extprocv3.UnimplementedExternalProcessorServer
	requestHeaders, requestBodies, requestBytes, responseHeaders, responseEnds, responseBytes atomic.Int64
}

func (p *processor) read() map[string]int64 {
	return map[string]int64{
		"request_headers": p.requestHeaders.Load(), "request_bodies": p.requestBodies.Load(), "request_bytes": p.requestBytes.Load(),
		"response_headers": p.responseHeaders.Load(), "response_ends": p.responseEnds.Load(), "response_bytes": p.responseBytes.Load(),
	}
}

// Process is one call's stream.
func (p *processor) Process(s extprocv3.ExternalProcessor_ProcessServer) error {
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled {
			return nil // Envoy ends the stream either way when the call is over
		}
		if err != nil {
			return err
		}
		r, err := p.pass(m)
		if err != nil {
			return err
		}
		if err := s.Send(r); err != nil {
			return err
		}
	}
}

// pass is the emptiest answer to a message.
func (p *processor) pass(m *extprocv3.ProcessingRequest) (*extprocv3.ProcessingResponse, error) {
	switch v := m.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		p.requestHeaders.Add(1)
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{}}}, nil
	case *extprocv3.ProcessingRequest_RequestBody:
		p.requestBodies.Add(1)
		p.requestBytes.Add(int64(len(v.RequestBody.GetBody())))
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{}}}, nil
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		p.responseHeaders.Add(1)
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{}}}, nil
	case *extprocv3.ProcessingRequest_ResponseBody:
		p.responseBytes.Add(int64(len(v.ResponseBody.GetBody())))
		if v.ResponseBody.GetEndOfStream() {
			p.responseEnds.Add(1)
		}
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{ResponseBody: &extprocv3.BodyResponse{}}}, nil
	default:
		return nil, status.Errorf(codes.InvalidArgument, "a message of a phase that is not asked for: %T", v)
	}
}

func runProcessor(ctx context.Context, socket, countSocket string, stdout io.Writer) error {
	p := &processor{}
	c, err := serveCounts(countSocket, p.read)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxBuffered + 1<<20)) // a whole body, and what is around it
	extprocv3.RegisterExternalProcessorServer(s, p)
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	fmt.Fprintln(stdout, socket)
	return s.Serve(l)
}
