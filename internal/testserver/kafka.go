package testserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

// Kafka is a cluster of Apache Kafka in KRaft mode; every node is broker and controller.
type Kafka struct {
	dir, libs string
	nodes     []*node
}

type node struct {
	*server
	dir    string
	broker string
}

// StartKafka formats and starts a cluster of n nodes. Settings are server.properties', such as "num.partitions=1". The
// program is found below DOCKET_TEST_KAFKA, or where `make kafka` puts it.
func StartKafka(n int, settings ...string) (_ *Kafka, err error) {
	k := &Kafka{}
	if k.libs, _, err = kafkaProgram(); err != nil {
		return nil, err
	}
	if _, err := exec.LookPath("java"); err != nil {
		return nil, fmt.Errorf("java %w (Debian: apt-get install default-jre-headless)", ErrMissing)
	}
	if k.dir, err = os.MkdirTemp("", "docket-kafka-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Close())
		}
	}()
	var voters []string
	var controllers []int
	for i := range n {
		broker, err := FreePort()
		if err != nil {
			return nil, err
		}
		controller, err := FreePort()
		if err != nil {
			return nil, err
		}
		controllers = append(controllers, controller)
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%d", i+1, controller))
		k.nodes = append(
			k.nodes,
			&node{dir: filepath.Join(k.dir, fmt.Sprint(i+1)), broker: fmt.Sprintf("127.0.0.1:%d", broker)},
		)
	}
	copies := min(n, 3)
	for i, b := range k.nodes {
		if err := os.Mkdir(b.dir, 0o755); err != nil {
			return nil, err
		}
		properties := append([]string{
			"process.roles=broker,controller",
			fmt.Sprintf("node.id=%d", i+1),
			"controller.quorum.voters=" + strings.Join(voters, ","),
			fmt.Sprintf("listeners=PLAINTEXT://%s,CONTROLLER://127.0.0.1:%d", b.broker, controllers[i]),
			"controller.listener.names=CONTROLLER",
			"log.dirs=" + filepath.Join(b.dir, "data"),
			"auto.create.topics.enable=false",
			// A test does not wait for others to join a group, nor for fifty partitions of offsets.
			"group.initial.rebalance.delay.ms=0",
			"offsets.topic.num.partitions=3",
			fmt.Sprintf("offsets.topic.replication.factor=%d", copies),
			fmt.Sprintf(
				"transaction.state.log.replication.factor=%d",
				copies,
			),
			fmt.Sprintf("transaction.state.log.min.isr=%d", max(copies-1, 1)),
		}, settings...)
		if err := os.WriteFile(b.properties(), []byte(strings.Join(properties, "\n")+"\n"), 0o644); err != nil {
			return nil, err
		}
	}
	var g errgroup.Group
	for _, b := range k.nodes {
		g.Go(func() error {
			format := exec.CommandContext(
				context.Background(), "java", "-cp", k.classPath(), "-Xmx128m", "-XX:TieredStopAtLevel=1",
				"kafka.tools.StorageTool", "format", "-t", "ZG9ja2V0LXRlc3RzLTEyMw", "-c", b.properties(),
			)
			if out, err := format.CombinedOutput(); err != nil {
				return fmt.Errorf("format: %w: %s", err, out)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i := range k.nodes {
		if err := k.launch(i); err != nil {
			return nil, err
		}
	}
	for i := range k.nodes {
		if err := k.await(i); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// kafkaProgram is where Kafka's libraries are, and its version.
func kafkaProgram() (libs, version string, err error) {
	if libs = os.Getenv("DOCKET_TEST_KAFKA"); libs == "" {
		libs = filepath.Join(root(), ".servers", "kafka")
	}
	found, _ := filepath.Glob(filepath.Join(libs, "kafka_2.13-*.jar"))
	if len(found) == 0 {
		return "", "", fmt.Errorf("kafka %w in %s: run make kafka", ErrMissing, libs)
	}
	version = strings.TrimSuffix(strings.TrimPrefix(filepath.Base(found[0]), "kafka_2.13-"), ".jar")
	return libs, version, nil
}

// KafkaVersion is the version that StartKafka starts, such as 4.1.0.
func KafkaVersion() (string, error) {
	_, version, err := kafkaProgram()
	return version, err
}

func (n *node) properties() string { return filepath.Join(n.dir, "server.properties") }

func (k *Kafka) classPath() string { return filepath.Join(k.libs, "*") }

func (k *Kafka) launch(i int) (err error) {
	b := k.nodes[i]
	b.server, err = start(fmt.Sprintf("Kafka node %d", i+1), "", b.dir, filepath.Join(b.dir, "log"),
		"java", "-cp", k.classPath(), "-Xms256m", "-Xmx768m", "kafka.Kafka", b.properties())
	return err
}

// await returns once node i answers and knows as many brokers as run.
func (k *Kafka) await(i int) error {
	b := k.nodes[i]
	running := 0
	for _, n := range k.nodes {
		if n.running() {
			running++
		}
	}
	return b.waitFor(60*time.Second, func() error {
		cl, err := kgo.NewClient(kgo.SeedBrokers(b.broker))
		if err != nil {
			return err
		}
		defer cl.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		meta, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, cl)
		if err != nil {
			return err
		}
		if len(meta.Brokers) < running {
			return fmt.Errorf("%d of %d brokers are there", len(meta.Brokers), running)
		}
		return nil
	})
}

func (n *node) running() bool {
	if n.server == nil {
		return false
	}
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// Brokers are the addresses of all nodes.
func (k *Kafka) Brokers() []string {
	var out []string
	for _, n := range k.nodes {
		out = append(out, n.broker)
	}
	return out
}

// Start starts node i again and waits until it is back.
func (k *Kafka) Start(i int) error {
	if err := k.launch(i); err != nil {
		return err
	}
	return k.await(i)
}

// Stop ends node i in good order: its partitions move first.
func (k *Kafka) Stop(i int) error { return k.nodes[i].end(syscall.SIGTERM, time.Minute) }

// Kill ends node i at once.
func (k *Kafka) Kill(i int) error { return k.nodes[i].end(syscall.SIGKILL, 10*time.Second) }

// Pause stops node i without ending it, as a machine does that hangs.
func (k *Kafka) Pause(i int) error { return k.nodes[i].pause() }

// Resume goes on after Pause.
func (k *Kafka) Resume(i int) { k.nodes[i].signalAll(syscall.SIGCONT) }

// Pid is node i's process.
func (k *Kafka) Pid(i int) int { return k.nodes[i].Pid() }

// Close ends every node and removes their directories.
func (k *Kafka) Close() error {
	var errs []error
	for _, n := range k.nodes {
		errs = append(errs, n.end(syscall.SIGKILL, 10*time.Second))
	}
	return errors.Join(append(errs, os.RemoveAll(k.dir))...)
}

// AddPartitions adds so many partitions to a topic.
func (k *Kafka) AddPartitions(ctx context.Context, topic string, more int) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers()...))
	if err != nil {
		return err
	}
	defer cl.Close()
	answers, err := kadm.NewClient(cl).CreatePartitions(ctx, more, topic)
	if err != nil {
		return err
	}
	return answers.Error()
}

// DeleteRecords takes away what stands in front of an offset of a partition, as its retention would.
func (k *Kafka) DeleteRecords(ctx context.Context, topic string, partition int32, before int64) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers()...))
	if err != nil {
		return err
	}
	defer cl.Close()
	var offsets kadm.Offsets
	offsets.AddOffset(topic, partition, before, -1)
	answers, err := kadm.NewClient(cl).DeleteRecords(ctx, offsets)
	if err != nil {
		return err
	}
	return answers.Error()
}
