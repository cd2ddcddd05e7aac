// Emits every kind of record and watches a job, on stubs generated from emitd's protos. Prints what it saw as
// one JSON object; main.js beside it prints the same.
//
//	polyglot ADDRESS JOB_ID
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	emitdv1 "github.com/emitd/emitd/clients/go/emitd/v1"
)

// The first is beyond what a double can hold, as is the number in the details.
const (
	timeUnixNano = 1764000000123456789
	detailsJSON  = `{"order":9007199254740993,"note":"Grüße, 世界"}`
)

type summary struct {
	LogDelivery   string   `json:"log_delivery"`
	EventID       string   `json:"event_id"`
	Duplicate     bool     `json:"duplicate"`
	JobRevisions  []uint64 `json:"job_revisions"`
	AcceptedCount uint32   `json:"accepted_count"`
	ErrorIndex    uint32   `json:"error_index"`
	ErrorCode     int32    `json:"error_code"`
	ErrorFields   []string `json:"error_fields"`
	Transitions   []string `json:"transitions"`
	Progress      int32    `json:"progress"`
	Ended         bool     `json:"ended"`
}

func main() {
	log.SetFlags(0)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	result, err := run(ctx, emitdv1.NewLogServiceClient(conn), os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, client emitdv1.LogServiceClient, jobID string) (*summary, error) {
	result := &summary{JobRevisions: []uint64{}, ErrorFields: []string{}, Transitions: []string{}}
	watch, err := client.WatchJob(ctx, &emitdv1.WatchJobRequest{
		JobId: jobID, AfterRevision: proto.Uint64(0), WaitForCreation: true,
	})
	if err != nil {
		return nil, err
	}
	steps := []func() error{
		func() error { return emitLogLine(ctx, client, result) },
		func() error { return emitAuditEventTwice(ctx, client, jobID, result) },
		func() error { return emitBatch(ctx, client, result) },
		func() error { return emitJobReports(ctx, client, jobID, result) },
		func() error { return followToEnd(watch, result) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return result, nil
}

func emitLogLine(ctx context.Context, client emitdv1.LogServiceClient, result *summary) error {
	record := &emitdv1.LogRecord{Level: emitdv1.Level_LEVEL_WARNING, Message: "Grüße, 世界", Source: "polyglot"}
	response, err := client.Emit(ctx, &emitdv1.EmitRequest{Record: record})
	if err != nil {
		return err
	}
	result.LogDelivery = response.Receipt.Handlers[0].Delivery.String()
	return nil
}

func emitAuditEventTwice(
	ctx context.Context, client emitdv1.LogServiceClient, jobID string, result *summary,
) error {
	record := &emitdv1.LogRecord{
		RecordId:     jobID + "/audit",
		TimeUnixNano: timeUnixNano,
		TraceId:      []byte("0123456789abcdef"),
		Payload:      &emitdv1.LogRecord_Audit{Audit: auditEvent("203.0.113.7")},
	}
	for range 2 {
		response, err := client.Emit(ctx, &emitdv1.EmitRequest{Record: record})
		if err != nil {
			return err
		}
		result.EventID = response.Receipt.Audit.EventId
		result.Duplicate = response.Receipt.Duplicate
	}
	return nil
}

func auditEvent(sourceIP string) *emitdv1.AuditEvent {
	return &emitdv1.AuditEvent{
		EventName: "order.placed", UserId: "zoë", SourceIp: sourceIP, DetailsJson: detailsJSON,
	}
}

// emitBatch sends three records of which the second is bad.
func emitBatch(ctx context.Context, client emitdv1.LogServiceClient, result *summary) error {
	response, err := client.EmitBatch(ctx, &emitdv1.EmitBatchRequest{Records: []*emitdv1.LogRecord{
		{Level: emitdv1.Level_LEVEL_INFO, Message: "first"},
		{Payload: &emitdv1.LogRecord_Audit{Audit: auditEvent("nowhere")}},
		{Level: emitdv1.Level_LEVEL_INFO, Message: "third"},
	}})
	if err != nil {
		return err
	}
	result.AcceptedCount = response.AcceptedCount
	for _, refused := range response.Errors {
		result.ErrorIndex = refused.Index
		result.ErrorCode = refused.Status.Code
		for _, packed := range refused.Status.Details {
			var detail errdetails.BadRequest
			if packed.UnmarshalTo(&detail) != nil {
				continue
			}
			for _, violation := range detail.FieldViolations {
				result.ErrorFields = append(result.ErrorFields, violation.Field)
			}
		}
	}
	return nil
}

func emitJobReports(ctx context.Context, client emitdv1.LogServiceClient, jobID string, result *summary) error {
	reports := []*emitdv1.JobStatus{
		{JobId: jobID, JobType: "polyglot", Status: emitdv1.JobState_JOB_STATE_QUEUED},
		{JobId: jobID, Status: emitdv1.JobState_JOB_STATE_RUNNING, Progress: proto.Int32(0)},
		{JobId: jobID, Status: emitdv1.JobState_JOB_STATE_COMPLETED, Labels: map[string]string{"team": "a"}},
	}
	for _, report := range reports {
		response, err := client.Emit(ctx, &emitdv1.EmitRequest{
			Record: &emitdv1.LogRecord{Payload: &emitdv1.LogRecord_Job{Job: report}},
		})
		if err != nil {
			return err
		}
		result.JobRevisions = append(result.JobRevisions, response.Receipt.Job.Revision)
	}
	return nil
}

func followToEnd(watch grpc.ServerStreamingClient[emitdv1.WatchJobResponse], result *summary) error {
	for {
		response, err := watch.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, transition := range response.Transitions {
			result.Transitions = append(result.Transitions, transition.Status.String())
		}
		result.Progress = response.Job.Progress
		result.Ended = response.Job.Ended
	}
}
