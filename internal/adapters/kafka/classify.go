package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/docket-project/docket/internal/domain"
)

// classify is the one place that turns errors of Kafka (https://kafka.apache.org/protocol#protocol_error_codes) and of
// its client into classes.
func classify(op string, err error) error {
	if err == nil {
		return nil
	}
	var known *domain.Error
	if errors.As(err, &known) {
		return err
	}
	e := &domain.Error{Class: domain.Unknown, Op: op, Text: err.Error(), Err: err}
	var code *kerr.Error
	var network net.Error
	var certificate *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, kgo.ErrClientClosed):
		e.Class = domain.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		e.Class = domain.Unavailable
	case errors.As(err, &certificate), errors.As(err, &authority), errors.As(err, new(tls.RecordHeaderError)):
		e.Class = domain.Misconfigured
	case errors.As(err, &code):
		e.Class, e.Code = classOf(code), code.Message
		e.Text = code.Message + ": " + code.Description
	case errors.Is(err, kgo.ErrMaxBuffered):
		e.Class, e.Text = domain.Unavailable, "too much waits for the brokers already"
	case errors.Is(err, kgo.ErrRecordTimeout), errors.Is(err, kgo.ErrRecordRetries), errors.Is(err, kgo.ErrAborting):
		e.Class = domain.Unavailable
	case errors.As(err, &network), kgo.IsRetryableBrokerErr(err):
		e.Class = domain.Unavailable
	case errors.As(err, new(*kgo.ErrFirstReadEOF)), errors.As(err, new(*kgo.ErrGroupSession)):
		e.Class = domain.Unavailable
	case errors.As(err, new(*kgo.ErrDataLoss)), errors.As(err, new(*kgo.ErrDecompressTooLarge)):
		e.Class = domain.Misconfigured
	}
	return e
}

// classOf is total: what the protocol calls retriable passes by itself, what a person has to change is listed, and so
// is what is the record's own fault.
func classOf(code *kerr.Error) domain.Class {
	switch code {
	case kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp:
		return domain.Invalid
	case kerr.UnknownTopicOrPartition, kerr.UnknownTopicID, kerr.InvalidTopicException, kerr.OffsetOutOfRange,
		kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed,
		kerr.TransactionalIDAuthorizationFailed, kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism,
		kerr.IllegalSaslState,
		kerr.UnsupportedVersion, kerr.InvalidConfig, kerr.PolicyViolation, kerr.InvalidReplicationFactor,
		kerr.InvalidRequiredAcks,
		kerr.InvalidGroupID, kerr.UnsupportedForMessageFormat, kerr.UnsupportedCompressionType, kerr.CorruptMessage,
		kerr.InvalidPartitions, kerr.SecurityDisabled, kerr.InconsistentGroupProtocol:
		return domain.Misconfigured
	}
	if code.Retriable {
		return domain.Unavailable
	}
	switch code {
	case kerr.RebalanceInProgress, kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.FencedInstanceID,
		kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerEpoch, kerr.ProducerFenced,
		kerr.BrokerNotAvailable, kerr.ReplicaNotAvailable, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend,
		kerr.UnknownServerError:
		return domain.Unavailable
	}
	return domain.Unknown
}
