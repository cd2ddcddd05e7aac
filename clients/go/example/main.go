// The example emits a log line, an audit event and the reports of a job, and watches the job to its end.
//
//	go run ./example 127.0.0.1:50051
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	emitdv1 "github.com/emitd/emitd/clients/go/emitd/v1"
)

func main() {
	address := "127.0.0.1:50051"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	if err := run(address); err != nil {
		log.Fatal(err)
	}
}

func run(address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	options, err := dialOptions(address)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(address, options...)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := emitdv1.NewLogServiceClient(conn)

	jobID := fmt.Sprintf("example-%d", time.Now().UnixNano())
	for _, record := range records(jobID) {
		response, err := client.Emit(ctx, &emitdv1.EmitRequest{Record: record})
		if err != nil {
			return err
		}
		fmt.Println("accepted:", response.Receipt)
	}
	return watch(ctx, client, jobID)
}

// records returns one record of each kind, the job's last report at the end. A record_id makes sending a record
// again harmless.
func records(jobID string) []*emitdv1.LogRecord {
	running := &emitdv1.JobStatus{
		JobId:    jobID,
		JobType:  "example",
		Status:   emitdv1.JobState_JOB_STATE_RUNNING,
		Progress: proto.Int32(40),
	}
	completed := &emitdv1.JobStatus{JobId: jobID, Status: emitdv1.JobState_JOB_STATE_COMPLETED}
	return []*emitdv1.LogRecord{
		{
			RecordId: jobID + "/log",
			Level:    emitdv1.Level_LEVEL_INFO,
			Message:  "hello from Go",
			Source:   "go-example",
		},
		{
			RecordId: jobID + "/audit",
			Source:   "go-example",
			Payload: &emitdv1.LogRecord_Audit{Audit: &emitdv1.AuditEvent{
				EventName:   "example.run",
				UserId:      "gopher",
				SourceIp:    "127.0.0.1",
				DetailsJson: `{"language":"go"}`,
			}},
		},
		{RecordId: jobID + "/running", Payload: &emitdv1.LogRecord_Job{Job: running}},
		{RecordId: jobID + "/completed", Payload: &emitdv1.LogRecord_Job{Job: completed}},
	}
}

// watch prints every change of the job's status from its first report on, until the job has ended.
func watch(ctx context.Context, client emitdv1.LogServiceClient, jobID string) error {
	stream, err := client.WatchJob(ctx, &emitdv1.WatchJobRequest{JobId: jobID, AfterRevision: proto.Uint64(0)})
	if err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, transition := range response.Transitions {
			fmt.Println(jobID, transition.Status, transition.Progress)
		}
	}
}
