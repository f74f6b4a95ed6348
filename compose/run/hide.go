package run

import "path/filepath"

// credentialFiles are where common tools keep their user's credentials, below the home directory.
var credentialFiles = []string{
	".ssh", ".gnupg", ".aws", ".azure", ".config/gcloud", ".kube", ".docker/config.json", ".config/containers/auth.json",
	".netrc", ".git-credentials", ".config/git/credentials", ".config/gh", ".config/glab-cli", ".npmrc", ".pypirc",
	".cargo/credentials", ".cargo/credentials.toml", ".gem/credentials", ".m2/settings.xml", ".gradle/gradle.properties",
	".vault-token", ".config/op", ".password-store", ".local/share/keyrings", ".pgpass", ".my.cnf", ".config/rclone",
	".terraform.d/credentials.tfrc.json", ".config/hub", ".huggingface/token", ".cache/huggingface/token",
	".claude/.credentials.json", ".codex/auth.json", ".gemini/oauth_creds.json", ".mozilla", ".config/google-chrome", ".config/chromium",
}

// CredentialFiles are the paths below a home directory that hold the caller's credentials, for Config.Hide.
func CredentialFiles(home string) []string {
	if home == "" {
		return nil
	}
	out := make([]string, 0, len(credentialFiles))
	for _, f := range credentialFiles {
		out = append(out, filepath.Join(home, f))
	}
	return out
}
