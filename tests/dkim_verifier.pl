# Says what Mail::DKIM thinks of each signature on a message: one line each, `selector algorithm result`, and an empty line.
# Reads lines of fields with tabs between them: FILE HOST RECORD [HOST RECORD …]; the records stand for the DNS.
use strict;
use warnings;
use Mail::DKIM::Verifier;
use Net::DNS;

$| = 1;
my %records;

{
    no warnings 'redefine';
    *Mail::DKIM::DNS::query = sub {
        my ($host, $type) = @_;
        return () unless exists $records{$host} && $type eq 'TXT';
        return Net::DNS::RR->new(owner => $host, type => 'TXT', txtdata => [$records{$host} =~ /(.{1,255})/g]);
    };
    *Mail::DKIM::DNS::query_async = sub {
        my ($host, $type, %options) = @_;
        my @answer = Mail::DKIM::DNS::query($host, $type);
        return sub { $options{Callbacks}{Success}->(@answer) };
    };
}

# Before version 1.20240619 Mail::DKIM knows RSA alone. Its parser, its canonicalization and its hashes serve as they are;
# what RFC 8463 adds is the signature itself, which CryptX verifies.
unless (eval { require Mail::DKIM::Algorithm::ed25519_sha256; 1 }) {
    require Crypt::PK::Ed25519;
    require MIME::Base64;
    no warnings qw(redefine once);

    @Ed25519::ISA = ('Mail::DKIM::Algorithm::rsa_sha256');
    *Ed25519::verify = sub {
        my $self = shift;
        my $signature = MIME::Base64::decode($self->signature->data);
        my $public = $self->signature->get_public_key->cork->{public};
        return unless $public->verify_message($signature, $self->{header_digest}->digest);
        return $self->check_body_hash;
    };
    *Ed25519Key::size = sub { 32 };

    my $class_for = \&Mail::DKIM::Signature::get_algorithm_class;
    *Mail::DKIM::Signature::get_algorithm_class =
      sub { $_[1] eq 'ed25519-sha256' ? 'Ed25519' : $class_for->(@_) };
    my $check = \&Mail::DKIM::PublicKey::check;
    *Mail::DKIM::PublicKey::check = sub {
        my $self = shift;
        return $check->($self) unless ($self->get_tag('k') // '') eq 'ed25519';
        my $public = Crypt::PK::Ed25519->new;
        $public->import_key_raw(MIME::Base64::decode($self->data), 'public');
        $self->cork(bless { public => $public }, 'Ed25519Key');
        return 1;
    };
}

while (<STDIN>) {
    chomp;
    (my $file, %records) = split /\t/;
    my $verifier = Mail::DKIM::Verifier->new;
    open my $message, '<:raw', $file or die "$file: $!\n";
    while (my $line = <$message>) { $verifier->PRINT($line) }
    $verifier->CLOSE;
    printf "%s %s %s\n", $_->selector, $_->algorithm, $_->result_detail for $verifier->signatures;
    print "\n";
}
