package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// dialOptions returns what EMITD_TLS, EMITD_CA_FILE, EMITD_CERT_FILE, EMITD_KEY_FILE, EMITD_TOKEN and EMITD_TOKEN_FILE
// say, as they do for emitd's own clients.
func dialOptions(address string) ([]grpc.DialOption, error) {
	transport := insecure.NewCredentials()
	caFile, certFile := os.Getenv("EMITD_CA_FILE"), os.Getenv("EMITD_CERT_FILE")
	if os.Getenv("EMITD_TLS") == "true" || caFile != "" || certFile != "" {
		config := &tls.Config{}
		if caFile != "" {
			pem, err := os.ReadFile(caFile)
			if err != nil {
				return nil, err
			}
			config.RootCAs = x509.NewCertPool()
			if !config.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("EMITD_CA_FILE: %s holds no certificate in PEM", caFile)
			}
		}
		if certFile != "" {
			pair, err := tls.LoadX509KeyPair(certFile, os.Getenv("EMITD_KEY_FILE"))
			if err != nil {
				return nil, err
			}
			config.Certificates = []tls.Certificate{pair}
		}
		transport = credentials.NewTLS(config)
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(transport)}
	if os.Getenv("EMITD_TOKEN") != "" || os.Getenv("EMITD_TOKEN_FILE") != "" {
		options = append(options, grpc.WithPerRPCCredentials(token{address}))
	}
	return options, nil
}

// token comes with each call. Its file is read for each, so that a new token needs no new connection.
type token struct{ address string }

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	text := os.Getenv("EMITD_TOKEN")
	if file := os.Getenv("EMITD_TOKEN_FILE"); file != "" {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		text = strings.TrimSpace(string(content))
	}
	return map[string]string{"authorization": "Bearer " + text}, nil
}

// RequireTransportSecurity keeps a token in plain text on this machine.
func (t token) RequireTransportSecurity() bool {
	host, _, _ := net.SplitHostPort(t.address)
	return host != "localhost" && !net.ParseIP(host).IsLoopback() && !strings.HasPrefix(t.address, "unix:")
}
