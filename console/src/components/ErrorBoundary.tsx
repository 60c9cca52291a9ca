import { Component, type ReactNode } from "react";
import { Empty } from "./Empty";

/** Keeps a defect of one view from taking the page with it. */
export class ErrorBoundary extends Component<{ children: ReactNode }, { error: Error | null }> {
  override state = { error: null as Error | null };

  static getDerivedStateFromError(error: Error) {
    return { error };
  }

  override render() {
    if (!this.state.error) return this.props.children;
    return (
      <div role="alert">
        <Empty>This view has failed, which is a defect of the page: {this.state.error.message}</Empty>
      </div>
    );
  }
}
